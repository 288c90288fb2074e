"""Markdown tables, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, form: str = ".3f", after: str = "") -> str:
    """A figure and what comes after it, or a dash where there is none."""
    return "–" if value is None else f"{value:{form}}{after}"


def percent(share: float, form: str = ".0f") -> str:
    return f"{100 * share:{form}} %"


def dimensions(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape))


def voxels(shape: Sequence[int]) -> str:
    """The size of a tomogram whose array has this shape, z first."""
    return f"{dimensions(shape[::-1])} voxels"
