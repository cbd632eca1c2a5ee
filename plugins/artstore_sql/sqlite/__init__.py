"""What is for SQLite alone."""
