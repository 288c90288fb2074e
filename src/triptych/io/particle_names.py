"""Names of particles that may be names of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LONGEST_NAME = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe_name(text: str) -> str:
    """A text as a file name: ASCII letters, digits, ".", "_" and "-", not hidden, not too long, never a path."""
    name = _UNSAFE.sub("_", text).lstrip(".-_")[:LONGEST_NAME].rstrip(".")
    return name or "particle"


def unique_names(stems: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """One file-safe name per particle: its stem; with its prefix where stems repeat; with its row where that repeats too.

    "Repeat" disregards case, as some file systems do.
    """
    names = [safe_name(stem) for stem in stems]
    if len({name.casefold() for name in names}) < len(names):
        names = [safe_name(f"{prefix}_{stem}") for prefix, stem in zip(prefixes, stems, strict=True)]
    counts = Counter(name.casefold() for name in names)
    if len(counts) < len(names):
        names = [f"{name}_row{row:07d}" if counts[name.casefold()] > 1 else name for row, name in enumerate(names, 1)]
    if len({name.casefold() for name in names}) < len(names):  # a stem that looks like one of ours
        names = [f"particle_{row:07d}" for row in range(1, len(names) + 1)]
    return names
