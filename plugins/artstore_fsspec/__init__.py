"""Any fsspec file system, and the protocol of stores that have neither rename nor lock."""
