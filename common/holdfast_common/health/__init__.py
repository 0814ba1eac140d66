"""GPU and node health, pure: what is read, what the kernel says, which rules judge it, and what follows.

The agent judges live; `holdfast health replay` judges a recording by the same code.
"""
