"""The shipped model on purified particles and on particles in a cytosol, at the SNR that the dose gives; writes benchmarks/results/in_cells.json.

    python benchmarks/in_cells.py [--model FOLDER] [--particles N] [--seed N] [--results FOLDER]

The tomograms are those of `triptych simulate` with its default settings and the built-in structures, but for their noise: it is what the
electrons leave, instead of what makes a certain SNR. In a cytosol everything between the particles counts as signal, so that the SNR of the
same dose is higher there; one that is fixed would let the tomograms of cells be noisier than they are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cells import judge_outputs, predict_store
from results import FOLDER, write_result

from triptych.config import SimulateConfig, SpecimenConfig
from triptych.io.store import open_store
from triptych.recognition.model import Model, load_model
from triptych.stages.simulate import simulate

CYTOSOL = {"purified": (0.0, 0.0), "cytosol, 5 to 10 %": (0.05, 0.1), "cytosol, 10 to 20 %": (0.1, 0.2)}
"""Share of the volume between the particles that small proteins fill."""


def run_test(model: Model, config: SimulateConfig) -> dict[str, Any]:
    """Figures of a report on freshly simulated particles, and their SNR."""
    with tempfile.TemporaryDirectory() as name:
        store = open_store(simulate(Path(name) / "data.zarr", config))
        figures = judge_outputs(store, np.arange(len(store)), **predict_store(model, store))
        return {"particles": len(store), "median_snr": float(np.median(store["snr"][:])), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--particles", type=int, default=810)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    tests: dict[str, Any] = {}
    for name, cytosol in CYTOSOL.items():
        specimen = SpecimenConfig(cytosol=cytosol)
        config = SimulateConfig(particles=arguments.particles, snr=None, tile_share=0, seed=arguments.seed, specimen=specimen)
        tests[name] = run_test(model, config)
    write_result("in_cells", arguments.seed, {"tests": tests}, model, arguments.results)


if __name__ == "__main__":
    main()
