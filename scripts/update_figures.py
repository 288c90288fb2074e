"""Put the figures of benchmarks/results/*.json into the pages that show them, between their markers.

    python scripts/update_figures.py [--check]

No figure of a page is written by hand: each stands between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``, and NAME is a
function below. With --check nothing is written, and a page that differs from the result files is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CARD = "src/triptych/data/models/base/README.md"
PAGES = tuple(ROOT / name for name in ("README.md", "docs/real_data.md", "docs/simulation.md", CARD))
BLOCK = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end of figures -->", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(name: str, content: dict[str, Any]) -> str:
    return f"(`benchmarks/results/{name}.json`: `{content['command']}`, triptych {content['triptych']}, {content['device']}, seed {content['seed']})"


def demo() -> str:
    """The table with which the demo ends."""
    content = read("demo")
    names = {"accuracy": "accuracy", "mean_iou": "mean IoU of the masks", "mean_density_correlation": "mean density correlation"}
    rows = [[text, f"{content[key]:.3f}"] for key, text in names.items()]
    about = f"{content['particles']} particles, {content['classes']} classes, "
    about += f"SNR {content['snr']:g}, averaged over half turns, {content['seconds']:.0f} s in all"
    return f"{table(['measure', 'value'], rows)}\n\n{about} {source('demo', content)}"


def simulated() -> str:
    """The shipped model on fresh simulated particles, a row per test."""
    content = read("shipped_model")
    keys = ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    rows = [[name, str(test["particles"]), *(f"{test[key]:.3f}" for key in keys)] for name, test in content["tests"].items()]
    return f"{table(['test', 'particles', 'accuracy', 'IoU', 'correlation', 'ECE'], rows)}\n\n{source('shipped_model', content)}"


def classes() -> str:
    """Per class at SNR 0.1, all structures."""
    content = read("shipped_model")
    test = content["tests"]["all, SNR 0.1"]
    keys = ("recall", "precision", "mean_iou", "mean_density_correlation")
    shown = [
        [name, str(row["particles"]), *("–" if row[key] is None else f"{row[key]:.2f}" for key in keys)] for name, row in test["classes"].items()
    ]
    return f"{table(['class', 'particles', 'recall', 'precision', 'IoU', 'correlation'], shown)}\n\n{source('shipped_model', content)}"


def real() -> str:
    """The real ribosomes and their controls."""
    content = read("real_ribosomes")
    tests = {
        "real": "the 20 particles",
        "real_not_deconvolved": "the same without CTF deconvolution",
    }
    rows = [[text, *_columns(content[key])] for key, text in tests.items()]
    rows += [[f"control: {name}", *_columns(figures)] for name, figures in content["controls"].items()]
    header = ["input", "called a ribosome", "called 70S", "mean p(70S)", "mean p(ribosome)", "mean p(none)"]
    return f"{table(header, rows)}\n\n{source('real_ribosomes', content)}"


def cytosol() -> str:
    """The real ribosomes as a network sees them that was trained on in a cytosol."""
    content = read("real_ribosomes_cytosol")
    tests = {"real": "the 20 particles", "real_not_deconvolved": "the same without CTF deconvolution"}
    rows = [[text, *_columns(content[key]), f"{content[key]['correlation_recovered']['own_pose']:.2f}"] for key, text in tests.items()]
    rows += [[f"control: {name}", *_columns(figures), "–"] for name, figures in content["controls"].items()]
    header = ["input", "called a ribosome", "called 70S", "mean p(70S)", "mean p(ribosome)", "mean p(none)", "recovered, own pose"]
    return f"{table(header, rows)}\n\n{source('real_ribosomes_cytosol', content)}"


def _columns(figures: dict[str, Any]) -> list[str]:
    keys = ("share_called_ribosome", "share_called_70s", "mean_probability_70s", "mean_probability_ribosome", "mean_probability_none")
    return [f"{figures[key]:.2f}" for key in keys]


def recovered() -> str:
    """Correlation of recovered densities with the placed reference."""
    content = read("real_ribosomes")
    entries = {
        "the particles themselves": content["real"]["correlation_input"],
        "recovered density": content["real"]["correlation_recovered"],
        "recovered density, without CTF deconvolution": content["real_not_deconvolved"]["correlation_recovered"],
    }
    rows = [[text, f"{e['own_pose']:.2f} ± {e['own_pose_sd']:.2f}", f"{e['other_poses']:.2f}"] for text, e in entries.items()]
    return f"{table(['correlation with the averaged density', 'placed in own pose', 'in other poses'], rows)}\n\n{source('real_ribosomes', content)}"


def simulator() -> str:
    """Speed and memory of the simulator."""
    content = read("simulator")
    names = {
        "tomogram": "a tomogram of 512 x 512 x 200 voxels in memory",
        "tomogram_files": "the same, written with labels, densities and tables",
        "subtomograms": "subtomograms from such tomograms, written",
        "loader": "training examples from one loader process",
        "training": "training, forward and backward, with its loader",
    }
    rows = []
    for key, text in names.items():
        figures = content[key]
        particles = f"{figures['particles']:,.0f}" if "particles" in figures else "–"
        seconds = f"{figures['seconds']:.1f}" if "seconds" in figures else "–"
        rate = f"{figures['particles_per_second']:,.0f}" if "particles_per_second" in figures else "–"
        rows.append([text, particles, seconds, rate, f"{figures['peak_gb']:.1f}"])
    return f"{table(['what', 'particles', 'seconds', 'particles/s', 'peak GB'], rows)}\n\n{content['cores']} cores {source('simulator', content)}"


def spectra() -> str:
    """Simulated beside real ribosomes."""
    content = read("real_spectra")
    rows = []
    for name in ("matched", "randomised"):
        figures = content[f"real_against_{name}"]
        numbers = [f"{figures[kind]['rms_difference_log10']:.2f}" for kind in ("radial", "angular")]
        numbers.append(f"{figures['grey_values']['kolmogorov_smirnov']:.3f}")
        numbers += [f"{figures[kind]['real_within_range']:.2f}" for kind in ("radial", "angular")]
        rows.append([f"{name} ({content['particles'][name]})", *numbers])
    header = ["simulated set", "radial: rms of log10", "angular: rms of log10", "grey values: KS distance", "radial: in range", "angular: in range"]
    clean = content["correlation_with_clean_density"]
    second = [[name, f"{clean[name]['whole']:.2f}", f"{clean[name]['300_to_40']:.2f}"] for name in ("real", "matched", "randomised")]
    seen = table(["correlation with the clean density", "whole box", "300-40 Å"], second)
    return f"{table(header, rows)}\n\n{seen}\n\n{source('real_spectra', content)}"


FIGURES: dict[str, Callable[[], str]] = {f.__name__: f for f in (demo, simulated, classes, real, recovered, cytosol, simulator, spectra)}


def fill(text: str) -> str:
    """The page with its blocks made anew."""
    return BLOCK.sub(lambda m: f"<!-- figures: {m[1]} -->\n{FIGURES[m[1]]()}\n<!-- end of figures -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if check and filled != text:
            sys.exit(f"{page.relative_to(ROOT)} shows figures other than the result files: run python scripts/update_figures.py")
        page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
