"""What the command `triptych` runs, and `python -m triptych`."""

import sys

from triptych.errors import INTERRUPTED, START_OVER


def main() -> None:
    """The command line; Ctrl-C while that is still being imported ends in the same sentence as later."""
    try:
        from triptych.cli import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped by you: {START_OVER}\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
