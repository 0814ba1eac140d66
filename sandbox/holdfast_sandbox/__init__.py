"""A throw-away Slurm cluster on a simulated cloud: real slurmctld, agents and boto3; only the machines are pretended."""
