"""Where checkpoints live: a file system, or an object store (Amazon S3, Google Cloud Storage, Azure Blob Storage)."""

from holdfast.store.base import Folder, Progress, Store
from holdfast.store.files import FileStore
from holdfast.store.location import open_store

__all__ = ["FileStore", "Folder", "Progress", "Store", "open_store"]
