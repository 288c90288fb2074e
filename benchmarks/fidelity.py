"""Whether it is known which recovered densities to believe: expected against found correlations; writes benchmarks/results/fidelity.json.

    python benchmarks/fidelity.py [--model FOLDER] [--particles N] [--seed N] [--results FOLDER]

The fidelity, what correlation with the true density a recovered one is expected to have, on fresh simulated particles at each SNR: of the built-in
structures, and of structures that the network was never shown (those of discovery.py, whose files are to be in ../shared/data/structures); and of the
20 real ribosomes, against the average of these particles in each one's pose (see docs/real_data.md).
`error` is the root mean square of expected less found, `bias` its mean, `rank_correlation` Spearman's over all particles, and
`within_class` the mean of those of each class: the order of particles of one kind, which the kind itself does not give away. `best_half` is the mean
found correlation of the half of the particles with the highest fidelity, `mean` that of all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cells import read_boxes
from discovery import PARTS, read_part
from numpy.typing import NDArray
from real_ribosomes import DATA, read_all
from results import FOLDER, exists_already, write_result

from triptych.config import NONE_CLASS, SimulateConfig
from triptych.errors import InputError
from triptych.io.store import Store, open_store
from triptych.judging.metrics import density_correlation, judge_expectation, mean
from triptych.recognition.model import BUILT_IN_MODEL, Model, load_model
from triptych.simulation.library import write_library
from triptych.stages.simulate import simulate

FloatArray = NDArray[np.float64]
SNRS = (0.3, 0.1, 0.03)
BATCH = 32


def expect_and_find(model: Model, store: Store, rows: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Expected and found correlations (n,) of the densities that a model recovers of some particles."""
    expected, found = [], []
    for batch in np.array_split(rows, -(-len(rows) // BATCH)):
        out = model.run(read_boxes(store, batch))
        told = model.expect_fidelity(out)
        if told is None or out.density is None:
            raise InputError("the model has no fidelity: fit it with `triptych calibrate`")
        expected.append(told)
        found.append(density_correlation(out.density.numpy(), store.read_rows("density", batch).astype(np.float32)))
    return np.concatenate(expected).astype(np.float64), np.concatenate(found)


def run_test(model: Model, structures: Path | None, particles: int, seed: int, snr: float) -> dict[str, Any]:
    """The figures of particles of a library, or of the built-in structures."""
    with tempfile.TemporaryDirectory() as name:
        config = SimulateConfig(particles=particles, structures=structures, snr=(snr, snr), seed=seed, tile_share=0)
        store = open_store(simulate(Path(name) / "data.zarr", config))
        label = np.asarray(store["label"][:])
        rows = np.flatnonzero(label != store.class_names.index(NONE_CLASS))
        expected, found = expect_and_find(model, store, rows)
    classes = [label[rows] == k for k in np.unique(label[rows])]
    within = mean([judge_expectation(expected[of], found[of]).rank_correlation for of in classes])
    return {**describe(expected, found), "within_class": within}


def run_real_test(model: Model) -> dict[str, Any]:
    """The figures of the real ribosomes."""
    given = model.predict(read_all(DATA))
    assert given.densities is not None
    assert given.fidelity is not None
    references = np.load(DATA / "truth.npz", allow_pickle=False)["reference_placed"].astype(np.float32)
    return describe(given.fidelity.astype(np.float64), density_correlation(np.stack(given.densities), references))


def describe(expected: FloatArray, found: FloatArray) -> dict[str, Any]:
    better = expected >= np.median(expected)
    return {"particles": len(found), "mean": mean(found), "best_half": mean(found[better]), **judge_expectation(expected, found)._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--particles", type=int, default=360)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    if exists_already(arguments.results / "fidelity.json"):
        return
    model = load_model(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        new = Path(name) / "new"
        write_library([read_part(part) for part in PARTS], new)
        tests = {
            kind: {f"{snr:g}": run_test(model, library, arguments.particles, arguments.seed, snr) for snr in SNRS}
            for kind, library in (("known", None), ("new", new))
        }
    write_result("fidelity", arguments.seed, {"tests": tests, "real": run_real_test(model)}, model, arguments.results)


if __name__ == "__main__":
    main()
