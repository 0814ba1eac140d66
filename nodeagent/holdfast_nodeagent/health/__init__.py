"""The health of this node: everything that is read is judged here, and what comes of it is told to the controller, Slurm and Prometheus."""
