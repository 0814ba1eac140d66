#!/bin/sh
# Starts slurmd as node $1 on this instance, as `systemctl start slurmd` would: returns at once, does nothing where one runs.
# -b tells slurmctld that the machine has booted; without it slurmctld waits for a boot that it never sees.
set -eu
node=${1:?usage: start_slurmd.sh NODE}
dir=${HOLDFAST_SANDBOX_INSTANCE_DIR:?}
hostname "$node"
printf '%s\n' "$node" >"$dir/node.tmp"
mv "$dir/node.tmp" "$dir/node"
# flock stays slurmd's parent and keeps the lock from slurmd's own children (-o): steps that outlive it do not block a restart.
setsid flock -n -o -E 0 "$dir/slurmd.lock" slurmd -D -b -f "${SLURM_CONF:?}" -N "$node" >>"$dir/slurmd.out" 2>&1 </dev/null &
