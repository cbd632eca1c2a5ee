"""artstore: a storage element whose files and metadata outlive the server, the database and us."""

__version__ = "0.1.0"
