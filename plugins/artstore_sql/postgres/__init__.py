"""The cache and the log in PostgreSQL."""
