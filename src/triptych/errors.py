"""The one exception that a user is meant to read, and what sentences for users are made with."""


class InputError(ValueError):
    """Input that cannot be used: one sentence saying what came, what was expected and what to do."""


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
START_OVER = "nothing half-made is left under the output's name; give the same command again to start over"


def first_line(error: BaseException) -> str:
    """What another library's exception says, on one line; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else type(error).__name__


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with what it counts: "1 particle", "1,234 particles"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
