"""`artstore serve`: the server granian in front of one of the two adapters."""
