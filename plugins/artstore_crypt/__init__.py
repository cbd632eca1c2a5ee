"""Encryption at rest, around any backend."""
