"""`triptych demo` as a user runs it, timed; writes benchmarks/results/demo.json.

    python benchmarks/demo.py [--seed N]
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

from results import write_result

from triptych.model import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "triptych", "demo", "--output", str(folder), "--seed", str(seed)], check=True)
        seconds = time.monotonic() - started
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
        snr = json.loads((folder / "demo.json").read_text())["snr"]
    keys = ("particles", "accuracy", "accuracy_interval", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    figures = {key: metrics[key] for key in keys}
    present = sum(1 for row in metrics["classes"] if row["particles"])
    write_result("demo", seed, {**figures, "classes": present, "snr": snr, "seconds": round(seconds, 1)}, load_model())


if __name__ == "__main__":
    main()
