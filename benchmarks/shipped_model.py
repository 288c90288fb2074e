"""The shipped model on fresh simulated particles; writes benchmarks/results/shipped_model.json, a block per test.

    python benchmarks/shipped_model.py [--library FOLDER] [--model FOLDER] [--particles N] [--seed N]

Without --library the structures are the built-in ones; with it (made by `triptych structures make`) all structures that the
model knows. Every test simulates its own tomograms with the default settings, neighbours, CTF and missing wedge included, at one
SNR; a test whose figures are in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from results import FOLDER, write_result

from triptych.config import PredictConfig, ReportConfig, SimulateConfig
from triptych.model import BUILT_IN_MODEL, load_model
from triptych.predict import predict
from triptych.report import report
from triptych.simulate import simulate

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--particles", type=int, default=1620)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    path = FOLDER / "shipped_model.json"
    tests = json.loads(path.read_text())["tests"] if path.exists() else {}
    model = load_model(arguments.model)
    which = "built_in" if arguments.library is None else "all"
    for snr in SNRS:
        keys = {f"{which}, SNR {snr:g}": False} | ({f"{which}, SNR {snr:g}, half turns": True} if snr == SNR_OF_HALF_TURNS else {})
        missing = [key for key in keys if key not in tests]
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data.zarr"
            if missing:
                simulate(data, SimulateConfig(structures=arguments.library, particles=arguments.particles, snr=(snr, snr), seed=arguments.seed))
            for key in missing:
                tests[key] = {"particles": arguments.particles, "seed": arguments.seed, **run_test(data, arguments.model, keys[key])}
                write_result("shipped_model", arguments.seed, {"tests": tests}, model)


if __name__ == "__main__":
    main()
