"""The controller: one loop of events, pure decisions and journaled commands, beside slurmctld."""

__version__ = "0.1.0"
