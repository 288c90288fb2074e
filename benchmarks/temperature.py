"""Whether the probabilities of the shipped model are right, with one temperature for all particles and with one that depends on each.

    python benchmarks/temperature.py WORK --library FOLDER

Both are fitted on one store (models/simulate_calibration.yaml), of particles from clear to poor, and judged on others: the default settings at
three SNRs, and the mostly poor particles of the last part of the training (models/simulate_5.yaml, another seed). FOLDER holds the structures
that the model knows. The logits are kept in WORK. Writes benchmarks/results/temperature.json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import read_boxes, simulate_once
from results import FOLDER, write_result
from torch import Tensor

from triptych.config import SimulateConfig
from triptych.io.store import known_labels, open_store
from triptych.recognition.model import Model, load_model
from triptych.recognition.temperature import Temperature, fit_constant, fit_temperature
from triptych.settings import load_config
from triptych.training.confidence import class_figures

SETTINGS = Path(__file__).parents[1] / "models"
SNRS = (0.3, 0.1, 0.03)
PARTICLES = 1600
SEED = 2026
POOR_SEED = 777
BATCH = 32


def configs(library: Path) -> dict[str, SimulateConfig]:
    """What is fitted on, then what is tested on."""
    fewer = ["particles=2048", "particles_per_tomogram=64", "tile_share=0", f"seed={POOR_SEED}"]
    poor = load_config(SimulateConfig, SETTINGS / "simulate_5.yaml", fewer)
    found = {"fitted": load_config(SimulateConfig, SETTINGS / "simulate_calibration.yaml", [])}
    found |= {f"SNR {snr:g}": SimulateConfig(particles=PARTICLES, snr=(snr, snr), seed=SEED) for snr in SNRS}
    return {name: config.model_copy(update={"structures": library}) for name, config in {**found, "poor": poor}.items()}


def read_logits(work: Path, name: str, config: SimulateConfig, model: Model) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and labels (n,) of the particles of a store."""
    kept = work / f"{name.replace(' ', '_')}.npz"
    if not kept.exists():
        store = open_store(simulate_once(kept.with_suffix(".zarr"), config))
        groups = np.array_split(np.arange(len(store)), -(-len(store) // BATCH))
        logits = [found for rows in groups if (found := model.run(read_boxes(store, rows)).class_logits) is not None]
        np.savez(kept, logits=torch.cat(logits).numpy(), label=known_labels(store, model.card.class_names))
    with np.load(kept, allow_pickle=False) as found:
        return torch.from_numpy(found["logits"]), torch.from_numpy(found["label"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for stores and logits")
    parser.add_argument("--library", type=Path, required=True, help="structures that the model knows")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = load_model()
    sets = {name: read_logits(arguments.work, name, config, model) for name, config in configs(arguments.library).items()}
    fitted = sets.pop("fitted")
    temperatures = {"none": Temperature(), "one": Temperature(fit_constant(*fitted)), "of each": fit_temperature(*fitted)}
    tests: dict[str, Any] = {
        name: {"particles": len(label), **{which: class_figures(logits, label, t) for which, t in temperatures.items()}}
        for name, (logits, label) in sets.items()
    }
    figures = {"fitted_on": len(fitted[1]), "temperatures": {which: asdict(t) for which, t in temperatures.items()}, "tests": tests}
    write_result("temperature", SEED, figures, model, arguments.results)


if __name__ == "__main__":
    main()
