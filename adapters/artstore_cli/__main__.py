"""`python -m artstore_cli` is `artstore`."""

import sys

from artstore_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
