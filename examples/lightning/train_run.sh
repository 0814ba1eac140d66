#!/usr/bin/env bash
#SBATCH --job-name=lightning-run --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
# Submit in this folder: sbatch --partition=spot train_run.sh [arguments of train.py]
# No comment and no exit code are needed: the wrapper sends Lightning its signal, and checks what it has saved before it is resumed from.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
exec srun holdfast run -- "${PYTHON:-python3}" train.py "$@"
