"""What a site told `holdfast slurm-conf`, kept beside the hooks (`site.json`), so that `holdfast doctor` need not be told again."""

import os
from pathlib import Path

from holdfast_common.errors import ConfigError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from holdfast_slurm.conf_settings import SlurmSettings

NAME = "site.json"


class Site(BaseModel):
    """Slurm's settings and the paths that are baked into the hooks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: SlurmSettings
    controller_socket: Path
    run_dir: Path
    bin_dir: Path
    slurm_conf: Path

    def save(self, directory: Path) -> None:
        """Write it into the hooks' directory, whole. Raises OSError."""
        temporary = directory / f".{NAME}.{os.getpid()}"
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(directory / NAME)


def load_site(directory: Path) -> Site | None:
    """Return what was kept; None where nothing was. Raises ConfigError where it cannot be used, OSError."""
    path = directory / NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return TypeAdapter(Site).validate_json(text)
    except ValidationError as error:
        raise ConfigError(str(path), [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]) from None
