"""The cache in SQLite."""
