"""`holdfast.data.Loader` over PyTorch's own DataLoader, with real workers where they matter."""

import copy
import multiprocessing
import pickle
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast.data import Loader, check_loader
from holdfast.data.order import Order
from holdfast.data.samples import Samples, seed_generators

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
torch_data = pytest.importorskip("torch.utils.data")

pytestmark = [pytest.mark.torch, pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")]


class Augmented:
    """Each sample is its index, and one number from every generator that an augmentation may use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fetched = multiprocessing.Value("i", 0)
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        with self.fetched.get_lock():
            self.fetched.value += 1
        if index in self.broken:
            raise OSError(f"sample {index} is unreadable")
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


Batch = list[tuple[float, ...]]


def rows(batch: Any) -> Batch:
    return sorted(zip(*(column.tolist() for column in batch), strict=True))


def take(loader: Any, count: int, batches: Iterator[Any] | None = None) -> list[Batch]:
    batches = batches or loader.endless()
    return [rows(next(batches)) for _ in range(count)]


def together(ranks: list[Loader], count: int) -> list[Batch]:
    """The next global batches of a run on several ranks; what a rank without samples repeats is left out."""
    loops = [rank.endless() for rank in ranks]
    result = []
    for _ in range(count):
        shares = [(rows(next(loop)), rank.weight) for loop, rank in zip(loops, ranks, strict=True)]
        result.append(sorted(row for share, weight in shares if weight for row in share))
    return result


def run_on(world_size: int, size: int = 26, batch_size: int = 12, **options: Any) -> list[Loader]:
    return [Loader(Augmented(size), batch_size, seed=3, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_position_goes_on_exactly_with_any_number_of_ranks(world_size: int, drop_last: bool) -> None:
    expected = together(run_on(1, drop_last=drop_last), 8)
    for done in range(7):
        before = run_on(1 + done % 4, drop_last=drop_last)
        assert together(before, done) == expected[:done]
        states = [loader.state_dict() for loader in before]
        assert all(state == states[0] for state in states)
        after = run_on(world_size, drop_last=drop_last)
        for loader in after:
            loader.load_state_dict(states[0])
        assert together(after, 8 - done) == expected[done:]


WORKERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"num_workers": 0}, {"num_workers": 3}),
    ({"num_workers": 2, "prefetch_factor": 4}, {"num_workers": 0}),
    ({"num_workers": 1}, {"num_workers": 2, "persistent_workers": True}),
    ({"num_workers": 3, "persistent_workers": True}, {"num_workers": 1, "prefetch_factor": 1, "persistent_workers": True}),
]


@pytest.mark.parametrize(("before", "after"), WORKERS)
def test_workers_change_neither_the_order_nor_the_augmentation(before: dict[str, Any], after: dict[str, Any]) -> None:
    expected = together(run_on(1, drop_last=False), 7)
    first = run_on(2, drop_last=False, **before)
    assert together(first, 4) == expected[:4]  # over the end of an epoch, into the second
    second = run_on(1, drop_last=False, **after)
    take(second[0], 2)  # its workers are ahead, at another place
    second[0].load_state_dict(first[0].state_dict())
    assert together(second, 3) == expected[4:]


@pytest.mark.parametrize("persistent", [False, True])
def test_the_position_is_what_the_loop_took_not_what_workers_fetched(persistent: bool) -> None:
    dataset = Augmented(64)
    loader = Loader(dataset, 4, num_workers=2, prefetch_factor=3, persistent_workers=persistent)
    batches = iter(loader)
    take(loader, 3, batches)
    while dataset.fetched.value < 24:  # six batches ahead of the first: the workers' time to get them
        time.sleep(0.01)
    assert loader.samples == 12
    other = Loader(Augmented(64), 4)
    other.load_state_dict(loader.state_dict())
    assert take(other, 1) == take(loader, 1, batches)


def test_a_loop_that_was_left_early_goes_on_and_epochs_end() -> None:
    loader = Loader(Augmented(22), 4, seed=1)
    expected = take(Loader(Augmented(22), 4, seed=1), 15)
    seen = []
    for batch in loader:
        seen.append(rows(batch))
        if len(seen) == 2:
            break
    assert (len(loader), loader.epoch, loader.samples) == (5, 0, 8)
    seen += [rows(batch) for batch in loader]
    assert (len(seen), loader.epoch, loader.samples) == (5, 1, 0)
    for epoch in (1, 2):
        assert loader.epoch == epoch
        seen += [rows(batch) for batch in loader]
    assert seen == expected
    assert len({tuple(row[0] for batch in seen[at : at + 5] for row in batch) for at in (0, 5, 10)}) == 3


def test_after_an_epochs_last_batch_a_resumed_run_begins_the_next_one() -> None:
    one, other = (Loader(list(range(8)), 4) for _ in range(2))
    batches = iter(one)
    next(batches), next(batches)
    assert (one.epoch, one.samples) == (0, 8)
    other.load_state_dict(one.state_dict())
    assert (other.epoch, other.samples) == (1, 0)
    assert next(batches, None) is None
    assert next(batches, None) is None  # for good, though the loader has more
    assert one.epoch == 1
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in other]
    assert (one.epoch, other.epoch) == (2, 2)


def test_a_loop_that_only_counts_its_batches_is_followed_by_the_next_epoch() -> None:
    expected = take(Loader(Augmented(8), 4), 6)
    loader = Loader(Augmented(8), 4)
    seen = [rows(batch) for _ in range(3) for _, batch in zip(range(len(loader)), loader, strict=False)]
    assert seen == expected
    assert (loader.epoch, loader.samples) == (2, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_loops_that_began_before_the_checkpoint_was_loaded_follow_it(workers: int) -> None:
    expected = take(Loader(Augmented(24), 4), 12)
    saved = Loader(Augmented(24), 4)
    take(saved, 8)
    loader = Loader(Augmented(24), 4, num_workers=workers)
    untouched, begun, endless = iter(loader), iter(loader), loader.endless()
    take(loader, 2, begun)
    loader.load_state_dict(saved.state_dict())
    assert take(loader, 1, untouched) == expected[8:9]
    assert take(loader, 1, begun) == expected[9:10]
    assert take(loader, 2, endless) == expected[10:]
    assert next(begun, None) is None


def test_it_is_resumed_by_run_with_loops_made_first(tmp_path: Path) -> None:
    def train(directory: Path, steps: int, **options: Any) -> list[Batch]:
        loader = Loader(Augmented(22), 4, **options)
        run = holdfast.Run(loader=loader, directory=directory)
        seen = [rows(batch) for _, batch in zip(run.steps(steps), loader.endless(), strict=False)]
        run.close()
        return seen

    expected = train(tmp_path / "whole", 9)
    parts = [train(tmp_path / "parts", 2), train(tmp_path / "parts", 5, num_workers=2), train(tmp_path / "parts", 9, num_workers=1)]
    assert [len(part) for part in parts] == [2, 3, 4]
    assert [batch for part in parts for batch in part] == expected


def generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_training_process_keeps_its_generators_and_loaders_each_others_order(workers: int) -> None:
    expected = take(Loader(Augmented(20), 4, seed=3), 6)
    train, evaluation = Loader(Augmented(20), 4, seed=3, num_workers=workers), Loader(Augmented(9), 4, drop_last=False, num_workers=workers)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = generators()
    seen = take(train, 2)
    assert [len(rows(batch)) for batch in evaluation] == [4, 4, 1]
    seen += take(train, 4)
    assert generators() == before
    assert seen == expected


def test_seeds_differ_by_epoch_sample_and_library() -> None:
    draws: list[float] = []
    for seed, epoch, index in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_generators(seed, epoch, index)
        draws += [random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float64)), float(torch.initial_seed())]
    assert len(set(draws)) == len(draws)
    seed_generators(0, 0, 0)
    assert int(np.random.get_state()[1][0]) != torch.initial_seed() & 0xFFFFFFFF  # else both would give the same stream
    assert [random.random(), float(np.random.rand())] == draws[:2]


class Fetching(Augmented):
    def __getitems__(self, indices: list[int]) -> list[tuple[int, int]]:
        return [(index, len(indices)) for index in indices]


def test_without_seeding_the_data_set_fetches_by_itself() -> None:
    assert rows(next(iter(Loader(Fetching(8), 4, shuffle=False, seed_samples=False)))) == [(index, 4) for index in range(4)]
    seeded, plain = Loader(Fetching(8), 4, shuffle=False), Loader(Augmented(8), 4, shuffle=False)
    assert take(seeded, 2) == take(plain, 2)
    torch.manual_seed(5)
    drawn = next(iter(Loader(Augmented(2), 2, shuffle=False, seed_samples=False)))[3].tolist()
    torch.manual_seed(5)
    assert drawn == [float(torch.rand(())), float(torch.rand(()))]  # as with a DataLoader, from the training's own generator


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"num_workers": 2, "persistent_workers": True}])
def test_after_an_error_the_same_batch_comes_again(options: dict[str, Any]) -> None:
    dataset = Augmented(12)
    dataset.broken = {5}
    loader = Loader(dataset, 4, shuffle=False, **options)
    batches = iter(loader)
    take(loader, 1, batches)
    for _ in range(2):
        with pytest.raises(OSError, match="sample 5"):
            next(batches)
        assert loader.samples == 4
    if not options:
        dataset.broken.clear()
        assert [[int(row[0]) for row in batch] for batch in take(loader, 2, batches)] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_sample_that_raises_stop_iteration_does_not_end_the_epoch() -> None:
    class Ending(Augmented):
        def __getitem__(self, index: int) -> Any:
            raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(Loader(Ending(4), 2))


def test_an_epoch_can_be_chosen() -> None:
    expected = take(Loader(Augmented(8), 4), 8)
    loader = Loader(Augmented(8), 4)
    batches = iter(loader)
    take(loader, 1, batches)
    loader.set_epoch(0)
    assert take(loader, 1, batches) == expected[1:2]
    loader.set_epoch(3)
    assert (loader.epoch, loader.samples) == (3, 0)
    assert take(loader, 2, batches) == expected[6:]
    with pytest.raises(ValueError, match="epoch -1"):
        loader.set_epoch(-1)


def test_shares_that_differ_are_told_and_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    loader = Loader(list(range(20)), 10, shuffle=False)
    with pytest.warns(UserWarning, match=r"loader\.weight") as told:
        assert next(iter(loader)).tolist() == [1, 4, 7]
    assert told[0].filename == __file__
    assert loader.weight == pytest.approx(0.9)
    monkeypatch.setenv("RANK", "2")
    loader.set_epoch(1)
    with pytest.raises(holdfast.HoldfastError, match=r"rank 1 of 3.*rank 2 of 3"):
        next(iter(loader))
    with pytest.raises(holdfast.HoldfastError, match="no sample for each of 3 ranks"):
        next(iter(Loader(list(range(20)), 2)))


def init_worker(worker: int) -> None:
    info = torch_data.get_worker_info()
    assert info.dataset.size == 8
    info.dataset.size = 100 + worker


class Sized(Augmented):
    def __getitem__(self, index: int) -> Any:
        return self.size


def test_workers_see_the_users_own_data_set() -> None:
    loader = Loader(Sized(8), 4, num_workers=1, worker_init_fn=init_worker)
    assert next(iter(loader)).tolist() == [100] * 4
    assert loader.dataset.size == 8
    samples = Samples([3, 4], Order(2, 0, False), True)
    for twin in (pickle.loads(pickle.dumps(samples)), copy.copy(samples)):  # as for workers that are spawned
        assert (len(twin), twin[1], twin.index(4)) == (2, 4, 1)


class Stream(torch_data.IterableDataset):  # type: ignore[misc]
    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"dataset": Stream()}, "StatefulDataLoader"),
        ({"dataset": {1, 2}}, "no samples by index"),
        ({"dataset": []}, "empty"),
        ({"batch_size": 9}, "less than one batch"),
        ({"batch_size": 0}, "batch size of 0"),
        ({"sampler": [1]}, "shuffle= and seed="),
        ({"generator": torch.Generator()}, "use seed="),
        ({"in_order": False}, "in_order"),
        ({"rank": 1}, "both"),
        ({"rank": 1, "world_size": 1}, "rank 1"),
        ({"workers": 2}, "workers"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        Loader(**{"dataset": list(range(8)), "batch_size": 4, **arguments})


def test_a_plain_dataloader_is_refused_with_what_to_write_instead() -> None:
    check_loader(Loader([1, 2], 2))
    with pytest.raises(TypeError, match=r"train: a DataLoader does not know its position.*holdfast\.data\.Loader\(dataset, batch_size="):
        check_loader(torch_data.DataLoader([1, 2]), "train")
    with pytest.raises(TypeError, match=r"StatefulDataLoader and give the data set a state_dict"):
        check_loader(torch_data.DataLoader(Stream()))
    with pytest.raises(TypeError, match=r"loader: list has no state_dict"):
        check_loader([1])
