"""HealthCheckProgram: says what the node's agent thinks of it. A shell script, made here; it starts no other program but `date`.

slurmd runs it as root at its own start, before it registers, and then every HealthCheckInterval, on every node of the cluster. It is given
SLURMD_NODENAME and no PATH, and its output goes into one pipe. A status other than 0 has no effect of its own: slurmd logs
`health_check failed: rc:1 output:…` and registers all the same (22.05: measured; slurmd.c of 26.05 does the same). So `sick` is 1, which
brings the reason into slurmd's log; to drain the node is the controller's part. scontrol is not called: before the registration it hangs
(mej/nhc issue 159).

The agent's word counts until the time that it names. One that is missing or stale is told of, with status 0: an agent that is down does not
make the GPUs sick.
"""

import shlex
from pathlib import Path

_BODY = """\
[ -d @RUN@ ] || exit 0  # not one of Holdfast's nodes
file=@RUN@/health
word='' until='' reason=''
if ! { read -r word until && IFS= read -r reason; } 2>/dev/null <"$file" && [ -z "$word" ]; then
  echo "holdfast: the agent has said nothing of this node's health: $file" >&2
  exit 0
fi
case $word/$until in
*/|*/*[!0-9]*|*/?????????????*) word='' ;;
ok/*|sick/*) ;;
*) word='' ;;
esac
if [ -z "$word" ]; then
  echo "holdfast: not understood: $file" >&2
  exit 0
fi
now=$(date +%s) && [ "$now" -le "$until" ] || {
  echo "holdfast: the agent's word ($word) is out of date since $until, Unix time: does holdfast-agent run?" >&2
  exit 0
}
[ "$word" = sick ] || exit 0
printf '%s\\n' "holdfast: $reason"
exit 1
"""


def body(run_dir: Path) -> str:
    """Return the script's lines for /bin/sh, without the first one."""
    return _BODY.replace("@RUN@", shlex.quote(str(run_dir)))
