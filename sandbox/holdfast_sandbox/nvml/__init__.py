"""Fake GPUs: a libnvidia-ml.so.1 of our own, which nvidia-ml-py loads as the real one, with profiles, and faults switched while it runs."""
