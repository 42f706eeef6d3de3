"""`python -m videohpm` is the `videohpm` command; torchrun starts it this way."""

import sys

from videohpm import stopping


def main() -> int:
    """The command line from its first moment: signals to stop are handled before it is imported."""
    try:
        stopping.begin()
        from videohpm import cli
    except KeyboardInterrupt:
        if stopping.first_to_tell():
            print("videohpm: interrupted", file=sys.stderr)
        code = stopping.INTERRUPTED
    else:
        code = cli.main()
    stopping.end(code)
    return code


if __name__ == "__main__":  # spawned data workers import this module again
    sys.exit(main())
