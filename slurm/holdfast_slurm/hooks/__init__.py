"""Programs that slurmctld, slurmd and slurmstepd run for Holdfast, and what writes their wrappers."""
