"""The command line: `artstore`."""
