"""A checkpoint of a format that is no longer read stops the run: to go on from its step with fresh weights would be a lie."""

from pathlib import Path
from typing import Any

import holdfast
import pytest
from holdfast import state


def test_it_is_refused_and_nothing_is_set_aside(tmp_path: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tally()
    with monkeypatch.context() as before:
        before.setattr(state, "VERSION", 1)
        for step in (run := holdfast.Run(model=model, directory=tmp_path)).steps(3):
            model.train(step)
        run.close()
    later = holdfast.Run(model=model, directory=tmp_path)
    with pytest.raises(holdfast.HoldfastError, match="format 1"):
        next(later.steps(5))
    later.close()
    assert (tmp_path / "step-00000003.a0" / "manifest.json").exists()
