"""The messages between controller, agents, hooks and command line."""
