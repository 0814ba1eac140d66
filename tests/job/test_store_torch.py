"""torch.save writes into our writer, and what it writes is read back."""

import io
from pathlib import Path
from typing import Any

import pytest
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.hashing import SHA256, file_hash
from holdfast.writer import HashingWriter

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_saves_into_the_writer(zipped: bool, tmp_path: Path) -> None:
    import torch

    state: dict[str, Any] = {"weights": torch.arange(700_000, dtype=torch.float32), "step": 7}
    with HashingWriter(tmp_path / "file", SHA256, Limiter(None, Clock())) as file:
        torch.save(state, file, _use_new_zipfile_serialization=zipped)  # type: ignore[arg-type]
        assert file.tell() > 2_800_000
    found = torch.load(tmp_path / "file", weights_only=True)
    assert torch.equal(found["weights"], state["weights"])
    assert (file.tell(), file.digest) == ((tmp_path / "file").stat().st_size, file_hash(tmp_path / "file", SHA256))
    assert not file.seekable()
    plain = io.BytesIO()
    torch.save(state, plain, _use_new_zipfile_serialization=zipped)
    assert len(plain.getvalue()) == file.size_bytes
