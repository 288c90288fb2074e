"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Input that cannot be used: one sentence saying what came, what was expected and what to do."""
