"""The write-ahead log in segment files, for the processes of one node."""
