"""What a launch's instances are for, in their tags: a lost journal is rebuilt from them. EC2 takes at most 256 characters in a tag's
value, and 50 tags, so node names are folded as Slurm folds them, and cut over several tags.
"""

from collections.abc import Mapping, Sequence

from holdfast_common.errors import InputError
from holdfast_common.nodeset import expand, fold

NODES_TAG, JOB_TAG = "holdfast:nodes", "holdfast:job"
VALUE_CHARACTERS, MOST_TAGS = 250, 30


def tags_of(nodes: Sequence[str], job_id: int) -> dict[str, str]:
    """Return the tags. Of more names than fit, the first ones: the others' instances are known by what their agents say."""
    text = fold(nodes)
    while len(text) > VALUE_CHARACTERS * MOST_TAGS:
        nodes = nodes[: len(nodes) // 2]
        text = fold(nodes)
    pieces = [text[start : start + VALUE_CHARACTERS] for start in range(0, len(text), VALUE_CHARACTERS)]
    tags = {_key(number): piece for number, piece in enumerate(pieces)}
    return {**tags, JOB_TAG: str(job_id)} if job_id else tags


def nodes_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names; none where the tags are not ours."""
    pieces: list[str] = []
    while len(pieces) < MOST_TAGS and _key(len(pieces)) in tags:
        pieces.append(tags[_key(len(pieces))])
    try:
        return tuple(expand("".join(pieces))) if pieces else ()
    except InputError:
        return ()


def job_of(tags: Mapping[str, str]) -> int:
    """Return the job's id; 0: none."""
    job = tags.get(JOB_TAG, "")
    return int(job) if job.isdecimal() and len(job) <= 10 else 0


def _key(number: int) -> str:
    return f"{NODES_TAG}.{number}" if number else NODES_TAG
