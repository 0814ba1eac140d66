#!/usr/bin/env bash
#SBATCH --job-name=lightning --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
#SBATCH --comment="holdfast: signal=USR1"
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]
# The comment has Holdfast send SIGUSR1 when the node goes away; Lightning then saves and requeues the job itself.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
exec srun "${PYTHON:-python3}" train.py "$@"
