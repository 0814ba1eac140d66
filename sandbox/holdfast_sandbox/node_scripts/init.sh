#!/bin/sh
# Init of one simulated instance: pid 1 of its own pid, mount and UTS namespaces, which the simulated cloud has made.
# Gives it a /run/holdfast and an /etc/hosts of its own, then keeps the node agent running, as systemd's Restart=always
# would. Never ends by itself: the instance is gone when the cloud kills this process.
# A file $HOLDFAST_SANDBOX_INSTANCE_DIR/no-agent keeps a dead agent from being started again; a file reboot there, as the agent
# dies, ends all that runs and what /run held, and gives the machine another boot id.
set -u
: "${HOLDFAST_SANDBOX_INSTANCE_ID:?}" "${HOLDFAST_SANDBOX_INSTANCE_IP:?}" "${HOLDFAST_SANDBOX_METADATA_URL:?}"
: "${HOLDFAST_SANDBOX_INSTANCE_DIR:?}"
: "${HOLDFAST_SANDBOX_ETC:?}" "${HOLDFAST_SANDBOX_AGENT:?}"
dir=$HOLDFAST_SANDBOX_INSTANCE_DIR
cd "$dir" || exit 1
exec >>"$dir/init.log" 2>&1

fail() { echo "instance init: $*"; exit 1; }
mount --make-rprivate / || fail "cannot make mounts private"
mkdir -p "$dir/run" /run/holdfast && chmod 755 "$dir" "$dir/run" || fail "cannot make directories"
mount --bind "$dir/run" /run/holdfast || fail "cannot mount /run/holdfast"
mount --bind "$HOLDFAST_SANDBOX_ETC/hosts" /etc/hosts || fail "cannot mount /etc/hosts"
hostname "$HOLDFAST_SANDBOX_INSTANCE_ID" || fail "cannot set the host name"
if [ -e "$HOLDFAST_SANDBOX_ETC/agent.toml.in" ]; then
  sed -e "s|@INSTANCE_ID@|$HOLDFAST_SANDBOX_INSTANCE_ID|g" -e "s|@METADATA_URL@|$HOLDFAST_SANDBOX_METADATA_URL|g" \
    -e "s|@INSTANCE_IP@|$HOLDFAST_SANDBOX_INSTANCE_IP|g" -e "s|@INSTANCE_DIR@|$dir|g" \
    "$HOLDFAST_SANDBOX_ETC/agent.toml.in" >"$dir/agent.toml" || fail "cannot write agent.toml"
fi
if [ -n "${HOLDFAST_SANDBOX_GPU_PROFILE:-}" ]; then
  "$HOLDFAST_SANDBOX_PYTHON" -m holdfast_sandbox.machine_gpus \
    "$HOLDFAST_SANDBOX_GPU_PROFILE" "$dir" "$HOLDFAST_SANDBOX_INSTANCE_ID" "$HOLDFAST_SANDBOX_SPOILT" || fail "cannot make GPUs"
  export HOLDFAST_FAKE_NVML="$dir/nvml.state"
fi

: >"$dir/kmsg"
cat /proc/sys/kernel/random/uuid >"$dir/boot_id" || fail "cannot write a boot id"
while :; do
  if [ -e "$dir/reboot" ]; then
    kill -KILL -1
    find "$dir/run" -mindepth 1 -delete
    rm -f "$dir/node"
    : >"$dir/kmsg"
    cat /proc/sys/kernel/random/uuid >"$dir/boot_id"
    rm -f "$dir/reboot"
  fi
  if [ ! -e "$dir/no-agent" ]; then
    # Word splitting is meant: the command comes from the sandbox's own settings and has no word with a space.
    setsid $HOLDFAST_SANDBOX_AGENT >>"$dir/agent.log" 2>&1 </dev/null &
    echo $! >"$dir/agent.pid"
    wait $!
    rm -f "$dir/agent.pid"
  fi
  sleep 0.3 &
  wait $!
done
