"""`python -m artstore` is `artstore`."""

import sys

from artstore.cli import main

if __name__ == "__main__":
    sys.exit(main())
