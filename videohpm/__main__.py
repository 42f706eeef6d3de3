"""`python -m videohpm` is the `videohpm` command; torchrun starts it this way."""

import sys

from videohpm.cli import main

if __name__ == "__main__":  # spawned data workers import this module again
    sys.exit(main())
