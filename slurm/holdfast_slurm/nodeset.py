"""Slurm's host lists. The one implementation stands in `holdfast_common.nodeset`, where the policy needs it as well."""

from holdfast_common.nodeset import MAX_NODES, MAX_TEXT, check_name, expand, fold

__all__ = ["MAX_NODES", "MAX_TEXT", "check_name", "expand", "fold"]
