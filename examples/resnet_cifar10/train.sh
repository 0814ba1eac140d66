#!/usr/bin/env bash
#SBATCH --job-name=resnet-cifar10 --nodes=1 --ntasks=1 --requeue --open-mode=append
began=$(date +%s.%N) # first of all, so that starts.txt says when the batch script really began
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]. After a requeue Slurm runs this from its top.
set -euo pipefail
export HOLDFAST_CHECKPOINT_DIR=${HOLDFAST_CHECKPOINT_DIR:-$PWD/checkpoints/$SLURM_JOB_ID}
mkdir -p "$HOLDFAST_CHECKPOINT_DIR"
echo "$began ${SLURM_RESTART_COUNT:-0} ${SLURMD_NODENAME:-$(hostname)}" >>"$HOLDFAST_CHECKPOINT_DIR/starts.txt"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# exec: Python takes the shell's place, so that Slurm's SIGTERM reaches it and no shell dies first and takes it along.
exec "${PYTHON:-python3}" train.py "$@"
