#!/usr/bin/env bash
#SBATCH --job-name=resnet-cifar10-2node --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append
began=$(date +%s.%N) # first of all, so that starts.txt says when the batch script really began
# Submit in this folder: sbatch --partition=spot train_2node.sh [arguments of train.py]. One rank per node, joined by gloo.
set -euo pipefail
export HOLDFAST_CHECKPOINT_DIR=${HOLDFAST_CHECKPOINT_DIR:-$PWD/checkpoints/$SLURM_JOB_ID}
mkdir -p "$HOLDFAST_CHECKPOINT_DIR"
echo "$began ${SLURM_RESTART_COUNT:-0} ${SLURMD_NODENAME:-$(hostname)}" >>"$HOLDFAST_CHECKPOINT_DIR/starts.txt"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# The ranks meet on the job's first node. Cloud nodes are often in no DNS: then Slurm knows the address.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
address=$first
if ! getent hosts "$first" >/dev/null; then
  record=$(scontrol -o show node "$first")
  [[ $record =~ NodeAddr=([^ ]+) ]] && address=${BASH_REMATCH[1]}
fi
export MASTER_ADDR=${MASTER_ADDR:-$address}
# A port of this job and attempt, below the ephemeral range: an orphan of an earlier attempt cannot answer for this one.
export MASTER_PORT=$((22000 + SLURM_JOB_ID % 200 * 50 + ${SLURM_RESTART_COUNT:-0} % 50))
exec srun --kill-on-bad-exit=1 "${PYTHON:-python3}" train.py "$@"
