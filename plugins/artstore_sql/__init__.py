"""The cache in an SQL database: one row for each file, and the means to find it."""
