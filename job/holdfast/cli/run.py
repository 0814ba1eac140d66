"""`holdfast run [options] -- command`: for training scripts that cannot be changed and save by themselves. See `holdfast.wrap`."""

import argparse
import sys
from collections.abc import Sequence

from holdfast.errors import HoldfastError
from holdfast.wrap.child import CannotStart
from holdfast.wrap.options import AUTO, Options, parse_signal

USAGE, FAILED = 2, 1
_DESCRIPTION = """\
Run a training script that has its own checkpointing, so that it survives the loss of its node without a change.

Before it starts, its checkpoints are verified; bad ones are moved to bad-checkpoints/, so that the script finds a good one. While it runs,
what it writes with torch.save, safetensors or Lightning becomes atomic and gets a checksum (.holdfast/NAME.json next to it), and torch.load
refuses a file that is not what was saved. When its node goes away, Lightning, submitit and Transformers (enable_jit_checkpoint) get the
signal for which they wait; as soon as a new whole checkpoint stands, the job is requeued. A script that only saves now and then gets no
signal: it is requeued after its next save, at the latest at the deadline, and what it had not saved is lost.
"""
_EPILOG = """\
examples (the last lines of a batch script: one wrapper for each task, after srun):
  plain torch.save     exec srun holdfast run --checkpoints ckpts --resume-arg '--resume {checkpoint}' -- python train.py
  Lightning            exec srun holdfast run --checkpoints . -- python train.py
  Transformers         exec srun holdfast run --checkpoints out -- python train.py --output_dir out --enable_jit_checkpoint True
  torchrun             exec srun --ntasks-per-node=1 holdfast run --checkpoints ckpts -- torchrun --nproc-per-node=8 … train.py
  submitit             SlurmExecutor(folder, python="holdfast run -- python3")
  a handler of its own exec srun holdfast run --signal USR1 --checkpoints ckpts -- python train.py

{checkpoint} in the command is replaced by the newest good checkpoint; without one, that word and the option before it are left out.
The command also finds it in HOLDFAST_RESUME_FROM. Lightning and Transformers (get_last_checkpoint) find theirs by themselves.

Needs #SBATCH --requeue; --open-mode=append keeps the output. Without srun (exec holdfast run -- python train.py, on one node) it works,
too, but let nothing stand between Slurm and the wrapper: a batch script's shell dies on a requeue's SIGTERM, and all below it is killed
within a second. `holdfast run -- srun python train.py` reaches tasks on its own node only.

Not covered: files that are not written by torch.save to a path, safetensors or a Lightning checkpoint (torch.distributed.checkpoint, NumPy,
pickle) are neither made atomic nor checked, but by what their format tells; a script that never saves cannot be rescued.

exit codes: the command's, 128+n if signal n ended it; 2 usage, 126 not executable, 127 not found
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast run",
        usage="holdfast run [options] -- COMMAND [ARG ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--checkpoints",
        metavar="DIR",
        action="append",
        default=[],
        help="where the command keeps its checkpoints (or the one file that it writes again and again); may be given more than once."
        " Default: what options such as --output_dir or --ckpt-dir of the command name, and what Lightning, Transformers and"
        " torch.save have written below the working directory",
    )
    add(
        "--signal",
        metavar="NAME",
        type=_signal,
        default=AUTO,
        help="what to send on a notice: a signal such as USR1, `none`, or `auto` (default): what Lightning, submitit or Transformers"
        " waits for, if the command uses one. Only processes that have a handler for it get it",
    )
    add(
        "--resume-arg",
        metavar="ARGS",
        action="append",
        default=[],
        dest="resume_args",
        help="arguments to add if there is a good checkpoint, such as '--resume {checkpoint}'",
    )
    add("--no-hook", dest="hook", action="store_false", help="leave the command's Python alone: no atomic files, no checksums")
    add("--no-verify", dest="verify", action="store_false", help="do not read the checkpoints before the start, and move none aside")
    return parser


def _signal(text: str) -> str | int:
    try:
        return parse_signal(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def main(argv: Sequence[str]) -> int:
    """Run `holdfast run`; returns the exit code (argparse leaves with 2 by itself)."""
    own, command = _split(argv)
    parser = _parser()
    options = parser.parse_args(own)
    if not command:
        parser.error("what is to be run? holdfast run [options] -- COMMAND [ARG ...]")
    from holdfast.wrap.supervisor import run

    try:
        return run(Options(command, options.checkpoints, options.signal, options.resume_args, options.hook, options.verify))
    except CannotStart as fault:
        print(f"holdfast run: {fault}", file=sys.stderr)
        return fault.code
    except (HoldfastError, OSError) as fault:
        print(f"holdfast run: {fault}", file=sys.stderr)
        return FAILED
