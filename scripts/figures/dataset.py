"""docs/dataset.md: the arrays of a dataset store."""

from __future__ import annotations

from figures.markdown import dimensions, table
from triptych.io.store import BOXES, PLACES, ROWS


def arrays() -> str:
    """The arrays of a dataset store."""
    about = {name: (dtype, "n x n x n", text) for name, (dtype, text) in BOXES.items()}
    about |= {name: (dtype, dimensions(shape) or "–", text) for name, (dtype, shape, text) in (ROWS | PLACES).items()}
    return table(["array", "type", "shape of a row", "what it is"], [[f"`{name}`", *row] for name, row in about.items()])


TABLES = (arrays,)
