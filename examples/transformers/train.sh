#!/usr/bin/env bash
#SBATCH --job-name=transformers --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
#SBATCH --comment="holdfast: signal=TERM exit_code=85"
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]
# The comment has Holdfast send SIGTERM when the node goes away, and requeue the job when it ends with code 85: with 0 it would be done.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
exec srun "${PYTHON:-python3}" train.py "$@"
