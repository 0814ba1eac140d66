"""Tensors of modules and optimizers in DCP's file format: what is saved comes back bit for bit, or nothing is touched."""

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import HoldfastError, SaveError
from holdfast.peers import Alone, Peers
from holdfast.rehearsal import rehearse

pytestmark = [pytest.mark.torch, pytest.mark.timeout(60)]


class Memory(io.BytesIO):
    """A file of a checkpoint, as far as `Staged.write` is concerned."""

    size_bytes = 0
    digest = "none"


def writer(folder: Path) -> Callable[[str], Any]:
    folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def create(name: str) -> Iterator[Memory]:
        file = Memory()
        yield file
        file.size_bytes = len(file.getvalue())
        (folder / name).write_bytes(file.getvalue())

    return create


def shards(objects: dict[str, Any], peers: Peers | None = None, told: list[str] | None = None) -> Any:
    from holdfast.sharded import Shards

    return Shards(objects, peers or Alone(), [].append if told is None else told.append)


def finish(staged: Any, folder: Path, peers: Peers | None = None) -> None:
    """Write what is staged, and the metadata."""
    peers = peers or Alone()
    written = peers.gather(staged.write(writer(folder)))
    if peers.place.rank == 0:
        (folder / ".metadata").write_bytes(staged.metadata(written))
    staged.release()
    peers.gather(None)


def save(objects: dict[str, Any], folder: Path) -> Any:
    saved = shards(objects)
    finish(saved.stage(), folder)
    return saved


def same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _bits(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def net(seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 2))


def train(model: Any, *optimizers: Any, steps: int = 2) -> None:
    import torch

    for step in range(steps):
        loss = model(torch.rand(4, 5, generator=torch.Generator().manual_seed(step))).pow(2).mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def optimizers() -> dict[str, Callable[[Any], Any]]:
    from torch import optim

    return {
        "plain SGD": lambda parameters: optim.SGD(parameters, lr=0.1),
        "momentum": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9),
        "AdamW amsgrad": lambda parameters: optim.AdamW(parameters, lr=0.1, amsgrad=True),
        "fused": lambda parameters: optim.AdamW(parameters, lr=0.1, fused=True),
        "Adafactor": lambda parameters: optim.Adafactor(parameters, lr=0.1),
        "groups": lambda parameters: optim.Adam([{"params": p, "lr": 0.1 / (n + 1)} for n, p in enumerate(parameters)]),
        "RMSprop": lambda parameters: optim.RMSprop(parameters, lr=0.1, momentum=0.5, centered=True),
        "ASGD": lambda parameters: optim.ASGD(parameters, lr=0.1),
        "Rprop": lambda parameters: optim.Rprop(parameters, lr=0.1),
    }


NAMES = ["plain SGD", "momentum", "AdamW amsgrad", "fused", "Adafactor", "groups", "RMSprop", "ASGD", "Rprop"]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_optimizers_of_every_kind(name: str, steps: int, tmp_path: Path) -> None:
    """Also before the first step: the state is empty then, and saving must not make the optimizer take one."""
    model, other = net(), net(1)
    optimizer, fresh = (optimizers()[name](module.parameters()) for module in (model, other))
    train(model, optimizer, steps=steps)
    before = {"model": {k: v.clone() for k, v in model.state_dict().items()}, "optimizer": optimizer.state_dict()["state"]}
    save({"model": model, "optimizer": optimizer}, tmp_path / "ck")
    assert same(before, {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    for used in (False, True):  # onto one that has made no step, and onto one that has
        if used:
            train(other, fresh, steps=3)
        assert shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck") == set()
        assert same(model.state_dict(), other.state_dict())
        assert same(optimizer.state_dict(), fresh.state_dict())
    train(model, optimizer)
    train(other, fresh)
    assert same(model.state_dict(), other.state_dict())


def test_lbfgs_whose_state_is_lists_and_which_needs_a_closure(tmp_path: Path) -> None:
    import torch

    def trained(steps: int) -> tuple[Any, Any]:
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = model(torch.ones(2, 3)).pow(2).sum()
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        return model, optimizer

    model, optimizer = trained(2)
    save({"model": model, "optimizer": optimizer}, tmp_path / "ck")
    other, fresh = trained(0)
    shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck")
    assert same(model.state_dict(), other.state_dict())
    assert same(optimizer.state_dict(), fresh.state_dict())


def odd_module(seed: int) -> Any:
    """A buffer of every dtype and shape that comes up, random bits in all of them."""
    import torch

    torch.manual_seed(seed)
    module = torch.nn.Module()
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool, torch.int8]
    dtypes += [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32]
    for dtype in dtypes:
        for shape in [(), (0,), (3, 0, 2), (1,), (4, 3), (2, 3, 4, 5)]:
            count = torch.Size(shape).numel()
            raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count * dtype.itemsize,), dtype=torch.uint8)
            name = f"{str(dtype).removeprefix('torch.')}_{'x'.join(map(str, shape))}"
            module.register_buffer(name, raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype))
    module.register_buffer("transposed", torch.rand(5, 3).t())
    module.register_buffer("channels_last", torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last))
    module.register_buffer("with_gaps", torch.rand(6, 8)[::2, 1:7:2])
    module.register_buffer("conjugate", torch.rand(3, dtype=torch.complex64).conj())
    module.register_buffer("none", None)
    return module


def test_every_dtype_and_layout(tmp_path: Path) -> None:
    one, other = odd_module(0), odd_module(1)
    save({"module": one}, tmp_path / "ck")
    assert shards({"module": other}).load(tmp_path / "ck") == set()
    for name, value in one.state_dict().items():
        assert same(value.resolve_conj(), other.state_dict()[name].resolve_conj()), name


def test_dcp_reads_what_we_write(tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = net().to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer)
    save({"model": model, "optimizer": optimizer, "odd": odd_module(0)}, tmp_path / "ck")
    assert b"holdfast." not in (tmp_path / "ck" / ".metadata").read_bytes(), "nothing of ours is needed to unpickle it"
    other = net(1)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.2)
    wanted = dict(zip(("model", "optimizer"), get_state_dict(other, fresh), strict=True)) | {"odd": odd_module(1).state_dict()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP's, about no process group
        dcp.load(wanted, storage_reader=dcp.FileSystemReader(tmp_path / "ck"))
        dcp_to_torch_save(tmp_path / "ck", tmp_path / "whole.pt")
    expected = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    assert same({name: wanted[name] for name in expected}, expected)
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert same({name: whole[name] for name in expected}, expected)
    assert all(same(value.resolve_conj(), whole["odd"][name]) for name, value in odd_module(0).state_dict().items())


def test_we_read_what_dcp_writes(tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, other = net(), net(1)
    optimizer, fresh = (torch.optim.AdamW(module.parameters(), lr=0.1) for module in (model, other))
    train(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True)), checkpoint_id=tmp_path / "ck")
    shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck")
    assert same([model.state_dict(), optimizer.state_dict()], [other.state_dict(), fresh.state_dict()])


def test_a_gan_and_an_optimizer_over_two_modules(tmp_path: Path) -> None:
    import torch

    def objects(seed: int) -> dict[str, Any]:
        generator, critic = net(seed), net(seed + 1)
        both = torch.optim.SGD([*critic.parameters(), *generator.parameters()], lr=0.1, momentum=0.9)
        adam = torch.optim.Adam(generator.parameters())
        return {"generator": generator, "critic": critic, "g_optimizer": adam, "both": both}

    one, other = objects(0), objects(5)
    train(one["generator"], one["g_optimizer"], one["both"])
    train(one["critic"], one["both"])
    save(one, tmp_path / "ck")
    shards(other).load(tmp_path / "ck")
    assert all(same(one[name].state_dict(), other[name].state_dict()) for name in one)


def test_tied_weights_extra_state_and_wrappers(tmp_path: Path) -> None:
    """Keys are those without DDP's and torch.compile's prefixes, so that runs with and without them read each other's."""
    import torch

    class Tied(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.embedding = torch.nn.Embedding(6, 4)
            self.head = torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight
            self.norm = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))
            self.extra: Any = {"seed": seed, 3: [torch.arange(seed + 1)], "empty": {}}

        def get_extra_state(self) -> Any:
            return self.extra

        def set_extra_state(self, state: Any) -> None:
            self.extra = state

    one, other = Tied(0), Tied(1)
    optimizer, fresh = (torch.optim.Adam(module.parameters()) for module in (one, other))
    one.head(one.norm(one.embedding(torch.arange(6)))).pow(2).sum().backward()
    optimizer.step()
    compiled = torch.compile(one, backend="eager")  # compiles nothing before it is called
    save({"model": compiled, "optimizer": optimizer}, tmp_path / "ck")
    shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck")
    assert same(one.state_dict(), other.state_dict())
    assert same(one.extra, other.extra)
    assert other.head.weight is other.embedding.weight
    assert same(optimizer.state_dict(), fresh.state_dict())


def test_state_in_another_dtype_than_the_parameters(tmp_path: Path) -> None:
    """PyTorch's own load_state_dict would cast it, and lose bits. Nested states keep their integer keys."""
    import torch

    class Master(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state[parameter]
                    state["master"] = torch.rand(parameter.shape)
                    state["blocks"] = {0: {"left": torch.rand(2, 2), "note": "x"}, (1, 2): torch.rand(3)}
                    state["count"] = 7

    one, other = (torch.nn.Linear(3, 2).to(torch.bfloat16) for _ in range(2))
    optimizer, fresh = (Master(module.parameters(), lr=0.1) for module in (one, other))
    optimizer.step()
    save({"model": one, "optimizer": optimizer}, tmp_path / "ck")
    shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck")
    for live, loaded in zip(one.parameters(), other.parameters(), strict=True):
        assert same(dict(optimizer.state[live]), dict(fresh.state[loaded]))
        assert fresh.state[loaded]["master"].dtype == torch.float32


def test_an_optimizer_of_parameters_that_no_module_has(tmp_path: Path) -> None:
    import torch

    def make() -> tuple[Any, Any]:
        parameter = torch.nn.Parameter(torch.ones(3))
        return parameter, torch.optim.Adam([parameter, torch.nn.Parameter(torch.ones(2), requires_grad=False)])

    parameter, optimizer = make()
    parameter.grad = torch.arange(3.0)
    optimizer.step()
    told: list[str] = []
    saved = shards({"optimizer": optimizer}, told=told)
    for number in range(2):
        finish(saved.stage(), tmp_path / str(number))
    assert told == ["optimizer has parameters that belong to no given module: its state is kept by their numbers"]
    _, fresh = make()
    shards({"optimizer": fresh}).load(tmp_path / "1")
    assert same(optimizer.state_dict(), fresh.state_dict())


def test_training_goes_on_while_what_was_staged_is_written(tmp_path: Path) -> None:
    import torch

    model = net()
    optimizer = torch.optim.Adam([{"params": model.parameters(), "betas": [0.9, 0.99]}], lr=0.1)
    train(model, optimizer)
    expected = {"model": {k: v.clone() for k, v in model.state_dict().items()}, "lr": 0.1, "betas": [0.9, 0.99]}
    staged = shards({"model": model, "optimizer": optimizer}).stage()
    train(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups[0]["betas"][0] = 0.1
    finish(staged, tmp_path / "ck")
    other = net(1)
    fresh = torch.optim.Adam([{"params": other.parameters(), "betas": [0.9, 0.99]}], lr=0.3)
    shards({"model": other, "optimizer": fresh}).load(tmp_path / "ck")
    group = fresh.param_groups[0]
    assert same({"model": other.state_dict(), "lr": group["lr"], "betas": list(group["betas"])}, expected)


def test_the_plan_is_kept_until_the_structure_changes(tmp_path: Path) -> None:
    import torch

    class Counting(Alone):
        planned = 0

        def gather(self, value: Any) -> list[Any]:
            Counting.planned += 1
            return [value]

    model = net()
    optimizer = torch.optim.Adam(model[0].parameters())
    saved = shards({"model": model, "optimizer": optimizer}, Counting())

    def plans(number: int) -> int:
        before = Counting.planned
        finish(saved.stage(), tmp_path / str(number))
        other = net(1)
        fresh = torch.optim.Adam(other[0].parameters())
        if len(optimizer.param_groups) == 2:
            fresh.add_param_group({"params": list(other[2].parameters())})
        shards({"model": other, "optimizer": fresh}).load(tmp_path / str(number))
        assert same([model.state_dict(), optimizer.state_dict()], [other.state_dict(), fresh.state_dict()])
        return Counting.planned - before

    assert [plans(0), plans(1)] == [1, 0]
    train(model, optimizer)  # its state appears
    assert [plans(2), plans(3)] == [1, 0]
    optimizer.param_groups[0]["lr"] = 0.5
    assert plans(4) == 0
    optimizer.add_param_group({"params": list(model[2].parameters())})
    train(model, optimizer)
    assert [plans(5), plans(6)] == [1, 0]
    model.half().float()  # other tensors of the same kind
    assert plans(7) == 0


def test_buffers_are_warm_at_the_first_save_and_used_again(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(600, 700)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = shards({"model": model, "optimizer": optimizer})
    expected = saved.share_bytes
    saved.warm()
    saved.warm()
    warmed = saved._free[0]
    assert warmed._touched_bytes >= expected
    model(torch.rand(1, 600)).sum().backward()
    optimizer.step()  # the state appears only now, and was reckoned with
    addresses = set()
    for number in range(3):
        staged = saved.stage()
        assert staged._buffer is warmed
        saved.warm()  # while it is being written: no second one
        assert not saved._free
        assert 0.98 * staged.size_bytes < expected < 1.02 * staged.size_bytes
        addresses.add(staged._buffer.views[0].data_ptr())
        finish(staged, tmp_path / str(number))
        saved.warm()
    assert len(addresses) == 1
    one, two = saved.stage(), saved.stage()  # the first is still being written: more memory, no harm
    assert two._buffer is not warmed
    finish(one, tmp_path / "one")
    finish(two, tmp_path / "two")
    assert len(saved._free) == 1
    assert (tmp_path / "one" / "__0_0.distcp").read_bytes() == (tmp_path / "two" / "__0_0.distcp").read_bytes()
    with pytest.raises(RuntimeError, match="was released"):
        one.write(writer(tmp_path / "late"))


def test_warming_stops_for_a_save(tmp_path: Path) -> None:
    """What is touched ahead is zeroed: never after a save has taken the memory."""
    model = net()
    saved = shards({"model": model})
    saved.warm()
    buffer = saved._free[0]
    staged = saved.stage()
    touched = buffer._touched_bytes
    buffer.touch(buffer.capacity_bytes)
    assert buffer._touched_bytes == touched
    finish(staged, tmp_path / "ck")
    other = net(1)
    shards({"model": other}).load(tmp_path / "ck")
    assert same(model.state_dict(), other.state_dict())


def test_forked_children_do_not_inherit_the_buffers() -> None:
    """A data loader's workers would: then each page of the next save is copied first, and memory doubles."""
    model = net()
    saved = shards({"model": model})
    staged = saved.stage()
    address = staged._buffer._bytes.data_ptr()
    told: list[str] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(part, 16) for part in head.split("-"))
            inside = low <= address < high
        elif head == "VmFlags:" and inside:
            told = line.split()
    assert "dc" in told


def misfits() -> dict[str, tuple[Callable[[Any], Any], str]]:
    import torch

    def named(**layers: Any) -> Any:
        return torch.nn.Sequential(OrderedDict(layers))

    return {
        "more": (
            lambda _: named(a=torch.nn.Linear(2, 2), b=torch.nn.Linear(2, 2)),
            r"this run has 2 that the checkpoint lacks \(b.bias, b",
        ),
        "fewer": (lambda _: named(a=torch.nn.Linear(2, 2, bias=False)), r"the checkpoint has 1 that this run lacks \(a.bias\)"),
        "shape": (lambda _: named(a=torch.nn.Linear(2, 3)), r"model.a.weight is \(2, 2\) in the checkpoint and \(3, 2\) here"),
    }


@pytest.mark.parametrize("kind", ["more", "fewer", "shape"])
def test_a_checkpoint_that_does_not_fit_touches_nothing(kind: str, tmp_path: Path) -> None:
    import torch

    saved = torch.nn.Sequential(OrderedDict(a=torch.nn.Linear(2, 2)))
    first = net()
    save({"first": first, "model": saved}, tmp_path / "ck")
    make, told = misfits()[kind]
    live, other = make(None), net(1)
    before = {name: value.clone() for name, value in {**live.state_dict(), **other.state_dict()}.items()}
    with pytest.raises(HoldfastError, match=told):
        shards({"first": other, "model": live}).load(tmp_path / "ck")
    assert same(before, {**live.state_dict(), **other.state_dict()})


def test_an_optimizer_that_does_not_fit(tmp_path: Path) -> None:
    import torch

    model = net()
    save({"model": model, "optimizer": torch.optim.SGD(model[0].parameters())}, tmp_path / "ck")
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(HoldfastError, match=r"parameters of optimizer does not fit: this run has 4 that the checkpoint lacks \(1.bias"):
        shards({"model": model, "optimizer": optimizer}).load(tmp_path / "ck")
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}], lr=0.5)
    assert shards({"model": model, "optimizer": optimizer, "another": net(2)}).load(tmp_path / "ck") == {"another"}
    assert optimizer.param_groups[0]["lr"] == 0.001


def test_ranks_share_the_writing_and_buffers_are_rank_0s(tmp_path: Path) -> None:
    """Replicas on three ranks: weights are written once, in even shares; what may differ between ranks is the lowest rank's."""
    import torch

    def models(rank: int) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(9)], torch.nn.BatchNorm1d(64))
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        model[9].running_mean.fill_(rank)
        return model, optimizer

    def act(peers: Peers) -> tuple[int, int, float]:
        model, optimizer = models(peers.place.rank)
        saved = shards({"model": model, "optimizer": optimizer}, peers)
        staged = saved.stage()
        finish(staged, tmp_path / "ck", peers)
        model[9].running_mean.fill_(9.0)
        saved.load(tmp_path / "ck")
        return staged.size_bytes, saved.total_bytes, float(model[9].running_mean[0])

    played = rehearse(3, act, timeout_s=20)
    sizes = [size for size, _, _ in played]
    assert max(sizes) < 1.2 * min(sizes)
    assert sum(sizes) < 1.6 * played[0][1], "each tensor is written once"
    assert [mean for _, _, mean in played] == [0.0, 0.0, 0.0]


def test_a_rank_that_cannot_read_its_state_leaves_nobody_waiting() -> None:
    def act(peers: Peers) -> str:
        model = net()
        if peers.place.rank == 1:
            model.register_state_dict_pre_hook(lambda *_: 1 / 0)
        try:
            shards({"model": model}, peers).stage()
        except SaveError as fault:
            return str(fault)
        return "staged"

    told = rehearse(2, act)
    assert told == ["the state of another rank cannot be read", "the state cannot be read: ZeroDivisionError: division by zero"]


def test_a_rank_that_cannot_copy_fails_the_save_on_all_and_the_next_one_works(tmp_path: Path) -> None:
    def act(peers: Peers) -> list[str]:
        from holdfast.sharded.buffers import Buffer

        model = net()
        saved = shards({"model": model}, peers)
        told = []
        for number in range(2):
            saved._take = (lambda _: 1 / 0) if number == 0 and peers.place.rank == 1 else Buffer
            try:
                finish(saved.stage(), tmp_path / str(number), peers)
                told.append("saved")
            except SaveError as fault:
                told.append(str(fault))
        return told

    first, second = rehearse(2, act)
    assert first == ["the state of another rank cannot be copied", "saved"]
    assert second == ["the state cannot be copied: ZeroDivisionError: division by zero", "saved"]


def test_one_rank_whose_structure_changes_makes_all_plan_anew(tmp_path: Path) -> None:
    def act(peers: Peers) -> list[int]:
        import torch

        model = net()
        own = net(7)
        optimizer = torch.optim.Adam(own.parameters())
        saved = shards({"model": model, f"own{peers.place.rank}": own, f"optimizer{peers.place.rank}": optimizer}, peers)
        plans = []
        for number in range(3):
            if number == 2 and peers.place.rank == 1:
                train(own, optimizer)
            staged = saved.stage()
            plans.append(id(staged._plan))
            finish(staged, tmp_path / str(number), peers)
        return [int(plans[0] == plans[1]), int(plans[1] == plans[2])]

    assert rehearse(2, act, timeout_s=20) == [[1, 0], [1, 0]]


def test_fsdp1_is_refused() -> None:
    import torch

    class FullyShardedDataParallel(torch.nn.Module):
        """What FSDP1's wrapper is called; the real one needs a process group."""

    with pytest.raises(HoldfastError, match="fully_shard"):
        shards({"model": torch.nn.Sequential(FullyShardedDataParallel())})
