"""The command line: `artstore`, or `python -m artstore_cli`."""
