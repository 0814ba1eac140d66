"""Stands in for PyTorch: the same two functions in the same module, and a zip file with CRCs as its format."""

from torch.serialization import load, save

__all__ = ["load", "save"]
