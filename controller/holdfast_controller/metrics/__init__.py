"""The controller's `/metrics`, and where Prometheus finds the agents' own."""
