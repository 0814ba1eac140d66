"""Losses are logged as they come out of the model: with their gradient."""

import pytest
from holdfast.reports import numbers

pytestmark = pytest.mark.torch


def test_a_loss_with_gradient_is_read_without_a_warning() -> None:
    import torch

    weight = torch.ones(1, requires_grad=True)
    assert numbers({"loss": (weight * 2.5).sum(), "pair": torch.ones(2), "plain": 1}) == {"loss": 2.5, "plain": 1.0}
