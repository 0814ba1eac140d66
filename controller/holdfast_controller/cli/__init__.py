"""The command groups that speak to the controller. Nothing here imports what only the controller needs, and grpc and rich come late."""
