"""One JSON file per benchmark: figures with what is needed to get them again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from triptych import __version__

FOLDER = Path(__file__).parent / "results"


class Placed(Protocol):
    """A model, or anything else that says where it runs and in which precision."""

    dtype: torch.dtype

    @property
    def device_name(self) -> str: ...


def exists_already(path: Path) -> bool:
    """Whether a result file is there: what has one is not run again, and is told so."""
    if path.exists():
        print(f"{path} exists already: give --results FOLDER to run it anew")
    return path.exists()


def commit() -> str | None:
    """The commit of this clone, with -dirty where files differ from it; None outside of a clone."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_result(name: str, seed: int, figures: Mapping[str, object], model: Placed | None = None, folder: Path = FOLDER) -> Path:
    """Write <name>.json into the folder of the results and print it."""
    content = {
        "benchmark": name,
        "command": f"python {os.path.relpath(sys.argv[0])} {' '.join(sys.argv[1:])}".strip(),
        "triptych": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": model.device_name if model else "CPU",
        "precision": str(model.dtype).removeprefix("torch.") if model else None,
        "seed": seed,
        **figures,
    }
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))
    return path
