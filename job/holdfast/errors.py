"""What can go wrong in the job library, by what the caller can do about it."""


class HoldfastError(RuntimeError):
    """Any fault that this library reports."""


class Fenced(HoldfastError):  # noqa: N818  (it is a state of this process, and the name users meet)
    """A newer attempt owns the checkpoint directory: this process may neither publish nor delete there."""


class SaveError(HoldfastError):
    """A save failed on at least one rank; nothing was published, on no rank."""


class BadCheckpointError(HoldfastError):
    """A published checkpoint does not verify. `file` is the faulty file's name, `reason` says why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class StoreError(HoldfastError, OSError):
    """A store of checkpoints did not do what was asked, after its own retries; names the object and the cause."""


class ProtocolError(HoldfastError):
    """A file of the job directory is malformed (too large, not regular, not JSON, a wrong type); it is void."""
