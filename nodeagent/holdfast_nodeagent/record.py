"""What the agent remembers over its own restart: `<run_dir>/agent.json`, root's alone (it holds the launch token)."""

import logging
from pathlib import Path

from holdfast_common.files import replace_file
from holdfast_common.jobfiles import Time
from holdfast_common.notice import Notice, NoticeKind
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast_nodeagent.notices.base import Identity

log = logging.getLogger(__name__)


class KeptIdentity(BaseModel):
    """An `Identity`, as it is kept."""

    model_config = ConfigDict(frozen=True)

    instance_id: str
    provider: str
    zone: str = ""
    instance_type: str = ""
    market: str = ""
    address: str = ""
    cluster: str = ""
    launch_id: str = ""
    launch_token: str = ""


class KeptNotice(BaseModel):
    """A `Notice`, as it is kept."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: NoticeKind
    deadline: Time
    received: Time
    reason: str = ""


class KeptAttempt(BaseModel):
    """A job that the agent began to evacuate by itself."""

    model_config = ConfigDict(frozen=True)

    job_id: int
    key: str
    attempt: int
    nodes: tuple[str, ...]
    signalled: bool = False
    """It was sent the signal that it declared: it ends by itself, also if the notice is withdrawn then."""


class Kept(BaseModel):
    """The file's content. `boot_id` says whether any of it still holds."""

    v: int = 1
    boot_id: str = ""
    identity: KeptIdentity | None = None
    began: float = 0.0
    """When an agent first ran in this boot, Unix seconds: the instance's age counts from here."""
    node: str = ""
    market: str = ""
    notices: dict[str, tuple[KeptNotice, ...]] = Field(default_factory=dict)
    acted: list[str] = Field(default_factory=list)
    attempts: list[KeptAttempt] = Field(default_factory=list)
    power_down_at: float | None = None
    released: str = ""


class Record:
    """The agent's memory. Whoever changes it saves it; a save is a write and a rename, so that a crash leaves the old or the new."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self.kept = self._load(boot_id)

    def _load(self, boot_id: str) -> Kept:
        fresh = Kept(boot_id=boot_id)
        try:
            kept = Kept.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return fresh
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be used, starting afresh: %s", self._path, str(error)[:200])
            return fresh
        if kept.v != 1 or kept.boot_id != boot_id:
            log.info("the machine has booted since: what was remembered does not hold any more")
            return fresh
        return kept

    def save(self) -> None:
        """Write it; a disk that takes nothing is logged and otherwise passed over, since telling goes before remembering."""
        try:
            replace_file(self._path, self.kept.model_dump_json().encode(), 0o600, "agent.record", durable=True)
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error.strerror)

    @property
    def identity(self) -> Identity | None:
        """Who we are, as the metadata service said earlier in this boot."""
        kept = self.kept.identity
        return None if kept is None else Identity(**kept.model_dump())

    @identity.setter
    def identity(self, value: Identity) -> None:
        names = KeptIdentity.model_fields
        self.kept.identity = KeptIdentity(**{name: getattr(value, name) for name in names})

    @property
    def notices(self) -> dict[str, tuple[Notice, ...]]:
        """The notices for this node, by source."""
        return {source: tuple(Notice(**dict(each)) for each in kept) for source, kept in self.kept.notices.items()}

    @notices.setter
    def notices(self, value: dict[str, tuple[Notice, ...]]) -> None:
        self.kept.notices = {
            source: tuple(KeptNotice(id=n.id, kind=n.kind, deadline=n.deadline, received=n.received, reason=n.reason) for n in notices)
            for source, notices in value.items()
        }
