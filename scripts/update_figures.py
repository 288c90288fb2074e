"""Put the figures of benchmarks/results/ into the pages that show them, between their markers.

    python scripts/update_figures.py [--check]

No figure of a page is written by hand: each stands between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``, and NAME is a
function of a module in ``figures/``. With --check nothing is written, and a page that differs from the result files is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

from figures import (
    dataset,
    discovery,
    networks,
    novelty,
    orienting,
    picking,
    probabilities,
    real_data,
    reliability,
    running,
    scaling,
    shipped_model,
    simulation,
)
from figures.results import ROOT

CARD = "src/triptych/data/models/base/README.md"
DOCS = ("real_data", "simulation", "picking", "benchmarks", "discovery", "orienting", "reliability", "scaling", "dataset")
PAGES = tuple(ROOT / name for name in ("README.md", *(f"docs/{name}.md" for name in DOCS), CARD))
BLOCK = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end of figures -->", re.DOTALL)

MODULES = (
    shipped_model, real_data, simulation, picking, orienting, discovery, reliability, scaling, dataset,
    networks, probabilities, novelty, running,
)  # fmt: skip
FIGURES: dict[str, Callable[[], str]] = {draw.__name__: draw for module in MODULES for draw in module.TABLES}


def fill(text: str) -> str:
    """The page with its blocks made anew."""
    return BLOCK.sub(lambda m: f"<!-- figures: {m[1]} -->\n{FIGURES[m[1]]()}\n<!-- end of figures -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if check and filled != text:
            sys.exit(f"{page.relative_to(ROOT)} shows figures other than the result files: run python scripts/update_figures.py")
        if filled != text:
            page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
