#!/usr/bin/env bash
#SBATCH --job-name=torch-save --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]
# On a notice the wrapper waits for the script's next save, then has the job requeued; the next attempt gets --resume with the newest
# checkpoint that verifies. The script is left as it is.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
exec srun holdfast run --resume-arg '--resume {checkpoint}' -- "${PYTHON:-python3}" train.py "$@"
