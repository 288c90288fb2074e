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
KEPT = ("accuracy", "accuracy_interval", "mean_recall", "mean_iou", "mean_density_correlation", "mean_density_correlation_in_mask")


def run_test(config: SimulateConfig, model: Path, half_turns: bool) -> dict[str, object]:
    """Simulate, predict and report in a temporary folder; the headline figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        simulate(folder / "data.zarr", config)
        simulated = time.monotonic()
        predict(folder / "data.zarr", folder / "predictions", model, PredictConfig(half_turns=half_turns))
        predicted = time.monotonic()
        report(folder / "predictions", folder / "report", folder / "data.zarr", ReportConfig(gallery=0))
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
    figures = {key: metrics[key] for key in (*KEPT, "expected_calibration_error")}
    per_class = {row.pop("name"): row for row in metrics["classes"] if row["particles"]}
    seconds = {"simulate": round(simulated - started, 1), "predict": round(predicted - simulated, 1)}
    return {**figures, "seconds": seconds, "classes": per_class}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--particles", type=int, default=540)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    path = FOLDER / "shipped_model.json"
    tests = json.loads(path.read_text())["tests"] if path.exists() else {}
    model = load_model(arguments.model)
    for snr in SNRS:
        for half_turns in (False, True) if snr == 0.1 else (False,):
            which = "built_in" if arguments.library is None else "all"
            key = f"{which}, SNR {snr:g}{', half turns' if half_turns else ''}"
            if key in tests:
                continue
            config = SimulateConfig(structures=arguments.library, particles=arguments.particles, snr=(snr, snr), seed=arguments.seed)
            tests[key] = {"particles": arguments.particles, "seed": arguments.seed, **run_test(config, arguments.model, half_turns)}
            write_result("shipped_model", arguments.seed, {"tests": tests}, model)


if __name__ == "__main__":
    main()
