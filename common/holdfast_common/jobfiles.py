"""The files through which a job and its node talk: `<run_dir>/jobs/<job_id>.<attempt>/{node,job}/*.json`.

One strict model per file. Unknown keys are ignored (fields are only ever added), a wrong type makes the whole file void. The JSON
Schemas in `docs/schemas` are generated from these models; `docs/job-protocol.md` describes them for other languages. Times are
Unix seconds.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from holdfast_common.errors import InputError

MAX_FILE_BYTES = 65_536
MAX_RANKS_PER_NODE = 1024

INT64_MAX = 2**63 - 1
TIME_MAX = 1e11

RankState = Literal["ready", "running", "saving", "saved", "parked", "done"]
NoticeKind = Literal["preempt", "maintenance", "health", "yield", "drain", "advise"]
Action = Literal["save", "save_and_park"]

Time = Annotated[float, Field(ge=0, le=TIME_MAX)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Step = Annotated[int, Field(ge=-1, le=INT64_MAX)]
Word = Annotated[str, StringConstraints(max_length=256)]
Sentence = Annotated[str, StringConstraints(max_length=1024)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class JobFile(BaseModel):
    """Common to all files: strict types, unknown keys ignored, version 1."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    v: Literal[1] = 1


class ContextFile(JobFile):
    """`node/context.json`: where the job runs. Prolog writes the first four keys, the agent adds the others."""

    job_id: Annotated[int, Field(ge=1, le=2**32 - 1)] = Field(description="Slurm's job id (of an array task: its own)")
    attempt: Count = Field(description="SLURM_RESTART_COUNT, 0 on the first run")
    node: Word = Field(description="Slurm's name of this node")
    nodes: Annotated[tuple[Word, ...], Field(max_length=4096, strict=False)] = Field(
        default=(), description="all nodes of the job; empty where Prolog was not told"
    )
    provider: Word | None = Field(default=None, description="aws, gcp, azure")
    zone: Word | None = None
    instance_type: Word | None = None
    market: Word | None = Field(default=None, description="spot or on_demand")
    window_s: Seconds | None = Field(default=None, description="seconds of notice that the provider gives")
    age_s: Seconds | None = Field(default=None, description="age of the instance when this file was written")
    hazard_per_h: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="expected losses per hour now; null: take the library's default"
    )


class NoticeFile(JobFile):
    """`node/notice.json`: this node, or another node of the job, goes away. The file is removed when the notice is cancelled."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    kind: NoticeKind
    deadline: Time | None = Field(description="when the machine may be gone; null where the cloud names no time (advise)")
    received: Time = Field(description="when the agent learned of it")
    reason: Sentence = ""
    action: Action = Field(description="save: save soon and go on; save_and_park: save, then wait to be ended, without training on")


class RankFile(JobFile):
    """`job/rank.<r>.json`: one process of the job, by itself."""

    pid: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(description="as the node sees it")
    started: Time = Field(description="when the process started, as /proc has it; guards against a pid used again")
    rank: Annotated[int, Field(ge=0, le=2**31 - 1)]
    world_size: Annotated[int, Field(ge=1, le=2**31 - 1)]
    wake_signal: Annotated[str, StringConstraints(max_length=16)] | Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="signal that wakes the process (`SIGUSR1` or its number); null: send none"
    )
    state: RankState
    notice_id: Word | None = Field(default=None, description="id of the notice that `saving`, `saved` and `parked` answer")
    step: Step = 0
    step_s: Seconds | None = Field(default=None, description="seconds per step, lately")
    saved_step: Step | None = Field(default=None, description="newest step that is safely stored; null or -1: none")
    save_expected_s: Seconds | None = Field(default=None, description="how long the next save is expected to take")


class StatusFile(JobFile):
    """`job/status.json`: rank 0 for all ranks."""

    state: RankState
    notice_id: Word | None = None
    step: Step = 0
    total_steps: Step | None = None
    saved_step: Step | None = None
    saving_step: Step | None = Field(default=None, description="step whose checkpoint is being written, behind training or not; null: none")
    saved_tier: Word | None = Field(default=None, description="where the newest checkpoint is: local, remote, …")
    bytes: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = Field(default=None, description="size of a checkpoint")
    checkpoint: Annotated[str, StringConstraints(max_length=4096)] | None = Field(default=None, description="its path or URL")
    attempt: Count
    stopped_on_notice: bool = Field(default=False, description="the job ended by itself because of the notice, and wants to be requeued")
    steps_lost: Step | None = Field(default=None, description="of a parked job: steps since saved_step, which the next attempt does again")


FILES: dict[str, type[JobFile]] = {"context": ContextFile, "notice": NoticeFile, "rank": RankFile, "status": StatusFile}

F = TypeVar("F", bound=JobFile)


def parse(model: type[F], text: bytes) -> F:
    """Return the file's content. Raises InputError with the first fault if it is not what the model says; nothing of it is used then."""
    if len(text) > MAX_FILE_BYTES:
        raise InputError(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise InputError(f"{where + ': ' if where else ''}{first['msg'][:200]} ({error.error_count()} faults)") from None


def dump(content: JobFile) -> bytes:
    """Return the file's bytes, one line."""
    return content.model_dump_json().encode() + b"\n"
