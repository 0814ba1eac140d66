"""Slurm as Holdfast needs it: a typed client, its fake, the hooks, and the configuration that a policy implies."""
