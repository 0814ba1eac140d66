#!/usr/bin/env bash
#SBATCH --job-name=transformers-callback --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
# Submit in this folder: sbatch --partition=spot train_callback.sh [arguments of train_callback.py]. No signal: the callback hears of the notice.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
exec "${PYTHON:-python3}" train_callback.py "$@"
