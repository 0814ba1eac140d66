"""Benchmarks: each a command in this folder that prints a table and writes its figures as JSON into bench-out/."""
