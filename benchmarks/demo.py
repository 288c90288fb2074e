"""`triptych demo` as a user runs it, timed; writes benchmarks/results/demo.json.

    python benchmarks/demo.py [--seed N] [--picture docs/images/demo.png]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from results import FOLDER, write_result

from triptych.io.mrc import read_mrc
from triptych.io.predictions import read_predictions
from triptych.io.store import open_store
from triptych.recognition.model import load_model

SHOWN = ("ribosome_70s", "rymv_capsid", "groel", "apoferritin", "spike", "rna_polymerase_2", "nucleosome", "hsp90_sba1")
"""Large and small: of each the first particle, whatever became of it."""
PANELS = ("subtomogram", "mask", "recovered", "truth")


def draw_panels(folder: Path, picture: Path) -> None:
    """Central slices of one particle of each structure: what the network was given, what it answered, and the truth."""
    store, given = open_store(folder / "data.zarr"), read_predictions(folder / "predictions")
    assert given.verdicts is not None
    assert given.masks is not None
    assert given.densities is not None
    truth = np.asarray(store["label"][:])
    figure, axes = plt.subplots(len(PANELS), len(SHOWN), figsize=(1.6 * len(SHOWN), 1.75 * len(PANELS)), layout="constrained")
    for column, name in zip(axes.T, SHOWN, strict=True):
        row = int(np.flatnonzero(truth == store.class_names.index(name))[0])
        given_box, true_density = (store.read_rows(array, np.array([row]))[0].astype(np.float32) for array in ("subtomogram", "density"))
        boxes = (given_box, read_mrc(given.masks[row]).data, read_mrc(given.densities[row]).data, true_density)
        for axis, title, box in zip(column, PANELS, boxes, strict=True):
            axis.imshow(box[len(box) // 2], cmap="gray", origin="lower", vmin=None if title == "subtomogram" else 0)
            axis.set(xticks=[], yticks=[])
        column[0].set_title(f"{name}\ncalled {given.verdicts[row]}", fontsize=8)
    for axis, title in zip(axes[:, 0], PANELS, strict=True):
        axis.set_ylabel(title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--picture", type=Path, help="PNG file of some particles")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    seed = arguments.seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "triptych", "demo", "--output", str(folder), "--seed", str(seed)], check=True)
        seconds = time.monotonic() - started
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
        snr = json.loads((folder / "demo.json").read_text())["snr"]
        if arguments.picture:
            draw_panels(folder, arguments.picture)
    keys = ("particles", "accuracy", "accuracy_interval", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    figures = {key: metrics[key] for key in keys}
    present = sum(1 for row in metrics["classes"] if row["particles"])
    write_result("demo", seed, {**figures, "classes": present, "snr": snr, "seconds": round(seconds, 1)}, load_model(), arguments.results)


if __name__ == "__main__":
    main()
