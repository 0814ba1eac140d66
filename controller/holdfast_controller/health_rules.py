"""The health rules in force: an admin's file, or the table that Holdfast brings."""

from pathlib import Path

from holdfast_common.errors import ConfigError
from holdfast_common.files import replace_file
from holdfast_common.health.rules import Rules, default_toml, parse_rules
from holdfast_common.settings import read_text


class HealthRulesStore:
    """The file and what it means. Without a path the built-in rules hold, and none can be set."""

    def __init__(self, path: str = "") -> None:
        """Read the file. Raises ConfigError with every fault."""
        self._path = Path(path) if path else None
        self.text = read_text(self._path) if self._path is not None else default_toml()
        self.rules = self.check(self.text)

    @property
    def revision(self) -> str:
        """Short hash of the rules in force."""
        return self.rules.revision

    def check(self, text: str) -> Rules:
        """Return what the text means. Raises ConfigError with every fault."""
        return parse_rules(text, str(self._path) if self._path is not None else "rules.toml")

    def set(self, text: str) -> None:
        """Put other rules in force, durably. Raises ConfigError, and then nothing has changed, and OSError."""
        if self._path is None:
            raise ConfigError(
                "health_rules",
                [
                    "the controller's settings name no file for them: write one that SlurmUser can replace (holdfast health rules --toml > "
                    '/var/lib/holdfast/rules.toml), add health_rules = "/var/lib/holdfast/rules.toml", and restart the controller'
                ],
            )
        rules = self.check(text)
        replace_file(self._path, text.encode(), 0o600, durable=True)
        self.text, self.rules = text, rules
