"""One JSON file per benchmark: figures with what is needed to get them again."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import torch

from triptych import __version__
from triptych.model import Model

FOLDER = Path(__file__).parent / "results"


def write_result(name: str, seed: int, figures: dict[str, object], model: Model | None = None, folder: Path = FOLDER) -> Path:
    """Write <name>.json into the folder of the results and print it."""
    content = {
        "benchmark": name,
        "command": f"python {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "triptych": __version__,
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
