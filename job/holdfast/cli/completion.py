"""`holdfast completion bash`: a completion script on stdout."""

import argparse
from collections.abc import Sequence

from holdfast.cli.checkpoint import WORDS

_BASH = """\
# holdfast completion for bash: source <(holdfast completion bash)
_holdfast() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{commands} --help --version" -- "$word")
    elif [ "$command" = completion ]; then
        mapfile -t COMPREPLY < <(compgen -W "bash" -- "$word")
    elif [ "$command" = checkpoint ] && [ "$COMP_CWORD" -eq 2 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{actions} --help" -- "$word")
    elif [ "$command" = checkpoint ]; then
        local options="--json --help"
        case "${{COMP_WORDS[2]}}" in
            verify) options+=" --progress --no-progress" ;;
            show) options+=" --tensors" ;;
            prune) options+=" --keep --keep-every --dry-run --force --progress --no-progress" ;;
            copy) options+=" --all --progress --no-progress" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word"; compgen -d -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "--json --help" -- "$word"; compgen -f -- "$word")
    fi
}}
complete -o filenames -F _holdfast holdfast
"""


def main(argv: Sequence[str], commands: Sequence[str]) -> int:
    """Print the script for a shell."""
    parser = argparse.ArgumentParser(prog="holdfast completion", description="Print a shell's completion script.")
    parser.add_argument("shell", choices=("bash",))
    parser.parse_args(argv)
    print(_BASH.format(commands=" ".join(commands), actions=" ".join(WORDS)), end="")
    return 0
