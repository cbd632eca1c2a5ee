"""`artstore serve`: granian in front of one of the two adapters."""
