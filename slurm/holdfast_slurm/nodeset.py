"""Slurm's node lists. The implementation stands in `holdfast_common`, where the policy needs it as well."""

from holdfast_common.nodeset import MAX_NODES, expand, fold

__all__ = ["MAX_NODES", "expand", "fold"]
