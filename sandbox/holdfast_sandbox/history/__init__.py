"""What the records of a sandbox say, put together: its journal, the cloud's own account, what jobs wrote of their attempts."""
