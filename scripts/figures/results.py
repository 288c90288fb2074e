"""The files of benchmarks/results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NO_RESULTS = "No results yet."
Content = dict[str, Any]


def read(name: str) -> Content:
    content: Content = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def is_there(name: str) -> bool:
    return (RESULTS / f"{name}.json").is_file()


def find(name: str) -> Content | None:
    """A result file, if there is one."""
    return read(name) if is_there(name) else None


def read_all(pattern: str) -> list[Content]:
    """All files of a pattern, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{pattern}.json"))]


def source(content: Content, files: str | None = None) -> str:
    """Where figures come from: this file, or those of which this is one."""
    file = f"`benchmarks/results/{files or content['benchmark']}.json`"
    return f"({file}: `{content['command']}`, triptych {content['triptych']}, {content['device']}, seed {content['seed']})"
