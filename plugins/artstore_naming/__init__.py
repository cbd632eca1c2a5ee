"""Names that people can read, under directories that tell the hour."""
