"""What is for PostgreSQL alone."""
