"""What is known of a file, and what is suspect about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from triptych.errors import InputError


@dataclass
class Description:
    """What a file is."""

    kind: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of label and text, in order."""
    warnings: list[str] = field(default_factory=list)
    """One sentence each: what is suspect and what to do."""

    def add(self, label: str, text: object) -> None:
        self.facts.append((label, str(text)))

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def guard(self, step: Callable[[], None]) -> None:
        """Take a step whose InputError, which would stop a run, is a warning here."""
        try:
            step()
        except InputError as error:
            self.warn(f"{error}.")
