"""TaskProlog: tells each task, and the batch script, where the job's directory is. A shell script, made here.

Not Python: it runs once per task, as the user, who need not be able to read our virtual environment. What it prints as
`export NAME=value` becomes part of the task's environment, `unset NAME` takes away: a job that was submitted from within
another one inherits that one's HOLDFAST_JOB_DIR. The attempt is SLURM_RESTART_COUNT, which 22.05 sets for the batch
step and for srun's steps from the second attempt on (measured).
"""

import shlex
from pathlib import Path

_BODY = """\
id=${SLURM_JOB_ID:-x}
attempt=${SLURM_RESTART_COUNT:-0}
case $id$attempt in
*[!0-9]*) echo 'unset HOLDFAST_JOB_DIR'; exit 0 ;;
esac
dir=@JOBS@/$id.$attempt
if [ -d "$dir/job" ]; then
  echo "export HOLDFAST_JOB_DIR=$dir"
else
  echo 'unset HOLDFAST_JOB_DIR'
fi
exit 0
"""


def body(run_dir: Path) -> str:
    """Return the script's lines for /bin/sh, without the first one."""
    return _BODY.replace("@JOBS@", shlex.quote(str(run_dir / "jobs")))
