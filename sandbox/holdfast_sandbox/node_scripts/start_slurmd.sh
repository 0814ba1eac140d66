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
# What -b reports is how far the kernel's uptime, in whole seconds, has come since slurmd's start. Where that passes to the next one before
# slurmd registers (seen on 22.05.8: Uptime=1 after 0.05 s), it is taken for booted before it was asked for, and the node stays POWERING_UP.
case $(cut -d. -f2 /proc/uptime) in [7-9]*) sleep 0.3 ;; esac
setsid flock -n -o -E 0 "$dir/slurmd.lock" slurmd -D -b -f "${SLURM_CONF:?}" -N "$node" >>"$dir/slurmd.out" 2>&1 </dev/null &
