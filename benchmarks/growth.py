"""How time and memory of discover grow with the number of particles.

    python benchmarks/growth.py WORK [--counts 250 1000 4000]

Three structures in a mixture, simulated, predicted with the shipped model, and all of them discovered, with a process for each core and otherwise the
settings as they are. Each count is a cell of its own in benchmarks/results/growth, which is not run again; what a stopped run has
done is kept in WORK. Time of a run that was stopped counts from its last start, so give WORK a new name for figures to publish.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from cells import peak_memory, run_apart, timed
from results import FOLDER, exists_already, write_result

from triptych.config import DiscoverConfig, PredictConfig, SimulateConfig
from triptych.io.star import read_star
from triptych.recognition.model import load_model
from triptych.stages.discover import discover
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate

CLASSES = ("ribosome_50s", "groel", "proteasome_20s")
SNR = 0.1
SEED = 0


def make_predictions(work: Path, count: int) -> tuple[Path, float]:
    """Predictions of so many particles, made once; seconds of the prediction."""
    store, predictions = work / f"data_{count}.zarr", work / f"predictions_{count}"
    if not store.exists():
        simulate(store, SimulateConfig(particles=count, classes=CLASSES, none_share=0, tile_share=0, snr=(SNR, SNR), seed=SEED))
    return predictions, timed(predictions, lambda: predict(store, predictions, config=PredictConfig()))


def peak_gb() -> float:
    """The most that this process and its workers held, if all of these held as much as the largest."""
    memory = peak_memory()
    return round((memory["process_gb"] or 0) + (os.cpu_count() or 1) * (memory["largest_child_gb"] or 0), 2)


def run_discover(predictions: Path, out: Path) -> dict[str, Any]:
    """Seconds until the groups were found and in all, peak memory, and what was found."""
    stamps: dict[int, float] = {}
    started = time.perf_counter()

    def tell(done: int, total: int) -> None:
        """When densities, and then steps, were first counted, by how many there are."""
        stamps.setdefault(total, time.perf_counter() - started)

    discover(predictions, out, DiscoverConfig(particles="all", workers=0), tell)
    groups = read_star(out / "groups.star")["groups"]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_until_groups": round(max(stamps.values()), 1),
        "peak_gb": peak_gb(),
        "groups": len(groups),
        "grouped": int(groups["triptychParticles"].astype(int).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for count in arguments.counts:
        if exists_already(arguments.results / "growth" / f"discover_{count}.json"):
            continue
        predictions, seconds = make_predictions(arguments.work, count)
        figures = run_apart(run_discover, predictions, arguments.work / f"discovery_{count}")
        figures = {"particles": count, "seconds_of_predict": round(seconds, 1), **figures}
        write_result(f"growth/discover_{count}", SEED, figures, load_model(), arguments.results)


if __name__ == "__main__":
    main()
