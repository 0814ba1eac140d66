"""Holdfast's node agent: reads the cloud's notices, passes them to the jobs of its node, and speaks with the controller."""

__version__ = "0.1.0"
