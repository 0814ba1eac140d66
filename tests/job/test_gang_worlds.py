"""Real ranks through the public API: saved on N ranks, loaded on M."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from gang_bed import Gang
from gang_settings import BATCH, SAMPLES

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
SAVED, TRAINED = 2, 4
"""Each attempt saves after so many steps, and is lost after two more: the next one makes those again."""


def chain(start: Callable[..., Gang], sizes: list[int], kinds: list[str]) -> None:
    """Attempts of these sizes, each from the checkpoint of the one before."""
    links = []
    for number, (ranks, kind) in enumerate(zip(sizes, kinds, strict=True)):
        first = number * SAVED
        digests = [first, first + SAVED]
        link = start(f"link{number}", ranks, kind=kind, stop=first + TRAINED - 1, digests=digests, run={"every_steps": SAVED})
        links.append(link.finished())
        assert list(link.batches()) == list(range(first, first + TRAINED)), link.told
        assert all(link.digests(rank) == link.digests() for rank in range(ranks)), "the state is alike on all ranks"
    in_one_go = start("whole", 1, len(sizes) * SAVED + TRAINED, checkpoints="whole").finished().batches()
    for link in links:
        assert link.batches().items() <= in_one_go.items(), "the global order of the samples does not depend on the ranks"
    for epoch in range(len(in_one_go) * BATCH // SAMPLES):
        steps = range(epoch * SAMPLES // BATCH, (epoch + 1) * SAMPLES // BATCH)
        assert sorted(sample for step in steps for sample in in_one_go[step]) == list(range(SAMPLES))
    for number, (saver, loader) in enumerate(pairwise(links), start=1):
        step = number * SAVED
        assert loader.digests()[step] == saver.digests()[step], f"saved on {saver.ranks}, loaded on {loader.ranks}: bit for bit"
        losses, expected = ({at: one.losses()[at] for at in range(step, step + SAVED)} for one in (loader, saver))
        exact = saver.ranks == loader.ranks <= 2 and kinds[number - 1] == kinds[number]
        assert losses == (expected if exact else pytest.approx(expected, rel=1e-5)), f"saved on {saver.ranks}, loaded on {loader.ranks}"


def every_pair(sizes: int) -> list[int]:
    """A walk that takes every step from one of 1 to `sizes` to another or the same, once (Euler, Hierholzer)."""
    left = {size: list(range(1, sizes + 1)) for size in range(1, sizes + 1)}
    path, walk = [1], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            walk.append(path.pop())
    return walk


def test_ddp_is_taken_up_by_the_same_and_by_another_number_of_ranks(gang: Callable[..., Gang]) -> None:
    sizes = [1, 1, 3, 2, 2, 4, 4, 1]
    chain(gang, sizes, ["ddp"] * len(sizes))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_every_number_of_ranks_takes_up_what_every_other_has_saved(gang: Callable[..., Gang], kind: str) -> None:
    sizes = every_pair(4)
    assert len(set(pairwise(sizes))) == 16
    chain(gang, sizes, [kind] * len(sizes))
