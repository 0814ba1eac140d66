#!/usr/bin/env bash
#SBATCH --job-name=torchrun --nodes=1 --ntasks-per-node=1 --requeue --open-mode=append
# Submit in this folder: sbatch --partition=spot train.sh [arguments of train.py]. For two nodes: sbatch --nodes=2 ... train.sh
# One torchrun on each node; no signal is declared: each rank hears of the notice itself, and torchrun, which SIGUSR1 would kill, is left alone.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"

# They meet on the job's first node. Cloud nodes are often in no DNS: then Slurm knows the address.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
address=$first
if ! getent hosts "$first" >/dev/null; then
  record=$(scontrol -o show node "$first")
  [[ $record =~ NodeAddr=([^ ]+) ]] && address=${BASH_REMATCH[1]}
fi
# A port of this job and attempt: an orphan of an earlier attempt cannot answer for this one.
port=$((22000 + SLURM_JOB_ID % 200 * 50 + ${SLURM_RESTART_COUNT:-0} % 50))
exec srun --kill-on-bad-exit=1 "${PYTHON:-python3}" -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node="${RANKS_PER_NODE:-2}" \
  --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-backend=c10d --rdzv-endpoint="$address:$port" \
  train.py "$@"
