"""The backend `crypt`: encryption at rest, around any backend."""
