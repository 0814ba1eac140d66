#!/usr/bin/env bash
#SBATCH --job-name=accelerate --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]
# No signal is declared: each rank hears of the notice itself, and the launcher, which SIGUSR1 would kill, is left alone.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"
port=$((22000 + SLURM_JOB_ID % 200 * 50 + ${SLURM_RESTART_COUNT:-0} % 50))  # of this job and attempt
# --multi_gpu is what makes accelerate start several processes; Accelerator(cpu=True) in the script keeps them on the CPU.
exec "${PYTHON:-python3}" -m accelerate.commands.launch --multi_gpu --num_machines=1 --num_processes=2 --main_process_port="$port" \
  --mixed_precision=no --dynamo_backend=no train.py "$@"
