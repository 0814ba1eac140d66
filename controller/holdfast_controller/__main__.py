"""`holdfast-controller`: arguments → settings → the controller."""

import argparse
import sys
from pathlib import Path

from holdfast_controller import __version__

DEFAULT_CONFIG = "/etc/holdfast/controller.toml"


def main() -> int:
    """Run the controller; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="holdfast-controller",
        description="Keeps GPU jobs running on spot capacity under Slurm. Runs beside slurmctld, as SlurmUser.",
        epilog="Restarting it at any instant is safe: it goes on from its journal. Exit codes: 0 stopped, 1 failed, 2 usage or settings.",
    )
    parser.add_argument("--config", type=Path, default=Path(DEFAULT_CONFIG), help=f"settings file, TOML (default: {DEFAULT_CONFIG})")
    parser.add_argument("--check", action="store_true", help="check settings, policy and health rules, say every fault, and exit")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=f"holdfast-controller {__version__}")
    arguments = parser.parse_args()

    from holdfast_common.errors import ConfigError
    from holdfast_common.log import configure_logging

    from holdfast_controller.config import load_config
    from holdfast_controller.health_rules import HealthRulesStore
    from holdfast_controller.policies import PolicyStore

    try:
        config = load_config(arguments.config)
        policies = PolicyStore(Path(config.policy), config.providers.names)
        if arguments.check:
            HealthRulesStore(config.health_rules)
        if arguments.check and config.nodes is not None:
            from holdfast_controller.bootstrap import prepare

            prepare(config.nodes, config.providers.names, config.cluster, config.slurm.user, str(arguments.config))
    except ConfigError as error:
        for fault in error.faults:
            print(f"{error.where}: {fault}", file=sys.stderr)
        return 2
    if arguments.check:
        print(f"{arguments.config}: fine; policy {policies.revision}, {len(policies.plans().by_node)} nodes")
        return 0
    configure_logging("controller", arguments.log_level)

    from holdfast_controller import app

    return app.main(config)


if __name__ == "__main__":
    sys.exit(main())
