"""`python -m triptych` is the command `triptych`."""

from triptych.cli import app

if __name__ == "__main__":
    app()
