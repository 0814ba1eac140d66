"""Errors, and whether it helps to try again.

HoldfastError
├── ConfigError            settings, policy or a directive are wrong: says every fault at once
├── InputError             something from outside (a job, a hook, metadata, an RPC) is malformed; it is dropped
├── AuthError              the caller is not who it must be
├── Temporary(retry_s)     trying again helps
│   ├── SlurmUnavailable   slurmctld or its commands gave no answer
│   └── ProviderTransient  a cloud gave no answer, or a fault of its own
└── Permanent              trying the same again does not help
    └── SlurmRefused       slurmctld answered, and said no
"""


class HoldfastError(Exception):
    """Base of all that Holdfast raises on purpose."""


class ConfigError(HoldfastError):
    """Settings, policy or a directive are wrong; `faults` holds one sentence each, all of them."""

    def __init__(self, where: str, faults: list[str]) -> None:
        super().__init__(f"{where}: " + "; ".join(faults))
        self.where = where
        self.faults = faults


class InputError(HoldfastError):
    """Input from outside is malformed. Nothing of it was used."""


class AuthError(HoldfastError):
    """The caller is not who it must be; the message is for our log, never for the caller."""


class Temporary(HoldfastError):  # noqa: N818 - says what to do
    """Trying again helps, after `retry_s` seconds."""

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class SlurmUnavailable(Temporary):
    """slurmctld, or a command that speaks to it, gave no answer in time."""


class ProviderTransient(Temporary):
    """A cloud gave no answer, or a fault of its own (5xx without a capacity code)."""


class Permanent(HoldfastError):  # noqa: N818 - says what to do
    """Trying the same again does not help."""


class SlurmRefused(Permanent):
    """slurmctld answered and refused; the message is its own."""
