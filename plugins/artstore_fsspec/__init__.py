"""The backend `fsspec`: any file system that fsspec knows."""
