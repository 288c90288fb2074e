"""The shipped model on fresh simulated particles; writes benchmarks/results/shipped_model.json, a block per test.

    python benchmarks/shipped_model.py [--library FOLDER] [--model FOLDER] [--particles N] [--seed N] [--results FOLDER]

Without --library the structures are the built-in ones; with it (`triptych structures fetch-classes`) all structures that the
model knows. Every test simulates its own tomograms with the default settings, neighbours, CTF and missing wedge included, at one
SNR; a test whose figures are in the file already is not run again, and those of another model, library, number or seed are not taken for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import FOLDER, write_result

from triptych.config import PredictConfig, ReportConfig, SimulateConfig
from triptych.io.manifest import describe_input
from triptych.recognition.model import BUILT_IN_MODEL, hash_model, load_model
from triptych.stages.predict import predict
from triptych.stages.report import report
from triptych.stages.simulate import simulate

SNRS = (0.3, 0.1, 0.03)
SNR_OF_HALF_TURNS = 0.1
KEPT = ("accuracy", "accuracy_interval", "mean_recall", "mean_iou", "mean_density_correlation", "mean_density_correlation_in_mask")


def run_test(data: Path, model: Path, half_turns: bool) -> dict[str, object]:
    """Predict and report in a temporary folder; the headline figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        predict(data, folder / "predictions", model, PredictConfig(half_turns=half_turns))
        seconds = round(time.monotonic() - started, 1)
        report(folder / "predictions", folder / "report", data, ReportConfig(gallery=0))
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
    figures = {key: metrics[key] for key in (*KEPT, "expected_calibration_error")}
    per_class = {row.pop("name"): row for row in metrics["classes"] if row["particles"]}
    return {**figures, "seconds": {"predict": seconds}, "classes": per_class}


def check_same(path: Path, tests: dict[str, Any], asked: dict[str, Any]) -> None:
    """The program ends where a test in the file was made in another way than is asked for; a row that names no model is the shipped one's."""
    for key, row in tests.items():
        made = {**asked, "model": list(hash_model(BUILT_IN_MODEL)), **row}
        other = [name for name, value in asked.items() if made[name] != value]
        if other:
            sys.exit(f"{path} holds '{key}' with another {' and '.join(other)}: give --results FOLDER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--particles", type=int, default=1620)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    path = arguments.results / "shipped_model.json"
    tests = json.loads(path.read_text())["tests"] if path.exists() else {}
    model = load_model(arguments.model)
    which = "built_in" if arguments.library is None else "all"
    asked = {"particles": arguments.particles, "seed": arguments.seed, "model": list(hash_model(arguments.model))}
    if arguments.library is not None:
        asked["library"] = describe_input(arguments.library)["sha256_of_listing"]
    check_same(path, tests, asked)
    for snr in SNRS:
        keys = {f"{which}, SNR {snr:g}": False} | ({f"{which}, SNR {snr:g}, half turns": True} if snr == SNR_OF_HALF_TURNS else {})
        missing = [key for key in keys if key not in tests]
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data.zarr"
            for key in keys.keys() - set(missing):
                print(f"{path} holds '{key}' already: give --results FOLDER to run it anew")
            if missing:
                simulate(data, SimulateConfig(structures=arguments.library, particles=arguments.particles, snr=(snr, snr), seed=arguments.seed))
            for key in missing:
                tests[key] = {**asked, **run_test(data, arguments.model, keys[key])}
                write_result("shipped_model", arguments.seed, {"tests": tests}, model, arguments.results)


if __name__ == "__main__":
    main()
