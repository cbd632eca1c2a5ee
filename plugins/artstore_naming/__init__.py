"""Names that people can read, in directories that tell the hour."""
