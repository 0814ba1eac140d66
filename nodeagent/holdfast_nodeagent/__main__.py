"""`holdfast-agent --config FILE [--check] [--version]`."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast_common.errors import ConfigError

from holdfast_nodeagent import __version__

EXIT_FAILED = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent, or with --check only look at its settings. Returns 0 (also after SIGTERM), 1 failed, 2 wrong usage or settings."""
    parser = argparse.ArgumentParser(prog="holdfast-agent", description="Holdfast's node agent; runs as root on each node.")
    parser.add_argument("--config", type=Path, default=Path("/etc/holdfast/agent.toml"), help="settings (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="check the settings and leave")
    parser.add_argument("--version", action="version", version=f"holdfast-agent {__version__}")
    options = parser.parse_args(arguments)
    from holdfast_nodeagent.config import load

    try:
        config = load(options.config)
        if options.check:
            print(f"{options.config}: ok")
            return 0
        logging.basicConfig(level=config.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        from holdfast_nodeagent.app import main as run

        asyncio.run(run(config))
    except ConfigError as error:
        for fault in error.faults:
            print(f"holdfast-agent: {error.where}: {fault}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"holdfast-agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
