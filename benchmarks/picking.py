"""How many of the particles of whole simulated tomograms are found, and called by their name, and how long it takes.

    python benchmarks/picking.py WORK [--model FOLDER] [--library FOLDER] [--shape 200 512 512] [--snr 0.1 0.03] [--tomograms 1] [--name picking]
        [--rivals dog templates oriented] [--templates 6] [--rotations 500]

Full physics: crowded, in a cytosol, with membranes and gold. A pick is right where it lies nearer to the centre of a particle than half its
radius (at least 40 Å), each particle being found once. Tomograms and picks are kept in WORK, where a run that was stopped goes on.
With --rivals, other ways to pick (see rivals.py) are judged by the same rule; template matching on the particles of its own structures
only, and triptych's picks of these beside it. "oriented" are triptych's picks again, with the classes that `triptych predict` and
`triptych orient` give them. Writes benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from results import FOLDER, write_result
from rivals import choose_templates, run_dog, run_oriented, run_templates
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from triptych.config import SpecimenConfig, TomogramConfig
from triptych.io.mrc import mmap_mrc, read_mrc
from triptych.io.relion_particles import particles_from_relion
from triptych.io.star import read_star
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.simulation.library import load_library
from triptych.simulation.scene import prepare_templates
from triptych.simulation.specimen import Template
from triptych.stages.simulate_tomograms import simulate_tomograms

NEAR = 40.0
"""Å: a pick may always be so far from a centre."""
SEED = 77
THRESHOLDS = np.round(np.arange(0.1, 0.96, 0.05), 2)
"""Of the score of picks that is a probability."""
SIZES = {"below 400 kDa": (0, 400), "400 to 1,000 kDa": (400, 1000), "above 1,000 kDa": (1000, np.inf)}


def make_tomograms(out: Path, library: Path | None, shape: tuple[int, int, int], snr: float, count: int) -> TomogramConfig:
    specimen = SpecimenConfig(shape=shape, occupancy=(0.06, 0.06), cytosol=(0.1, 0.1), vesicles=(3, 3), gold_beads=(6, 6), ice_thickness=(1800, 1800))
    config = TomogramConfig(tomograms=count, structures=library, snr=(snr, snr), seed=SEED, specimen=specimen)
    if not out.exists():
        simulate_tomograms(out, config)
    return config


def run_pick(tomograms: Path, out: Path, model: Path) -> dict[str, float]:
    """Pick in a process of its own; seconds and peak memory."""
    cost = out.with_name(f"{out.name}.json")
    if not out.exists() or not cost.exists():
        code = f"from triptych.cli import app; app(['pick', {str(tomograms)!r}, {str(out)!r}, '--model', {str(model)!r}])"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds = time.perf_counter() - started
        cost.write_text(json.dumps({"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20}))
    figures: dict[str, float] = json.loads(cost.read_text())
    return figures


def match(truth: NDArray[np.float64], reach: NDArray[np.float64], found: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (particle, pick) within reach, as many and as near as can be."""
    pairs = cKDTree(truth).sparse_distance_matrix(cKDTree(found), float(reach.max()), output_type="ndarray") if len(found) and len(truth) else []
    near = [(int(p["i"]), int(p["j"]), float(p["v"])) for p in pairs if p["v"] <= reach[p["i"]]]
    if not near:
        return []
    rows, columns = sorted({i for i, _, _ in near}), sorted({j for _, j, _ in near})
    cost = np.full((len(rows), len(columns)), 1e6)
    for i, j, distance in near:
        cost[rows.index(i), columns.index(j)] = distance
    return [(rows[a], columns[b]) for a, b in zip(*linear_sum_assignment(cost), strict=True) if cost[a, b] < 1e6]


def f1(right: int, picks: int, particles: int) -> float:
    return 2 * right / max(picks + particles, 1)


def judge(tomograms: Path, picks: Path, radius: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The particles with the pick that found each, and the picks with the particle that each found."""
    truth, found = (particles_from_relion(folder / "particles.star") for folder in (tomograms, picks))
    assert truth.positions is not None
    assert found.positions is not None
    wanted, picked = truth.table[["rlnTomoName", "triptychClass"]].copy(), found.table[["rlnTomoName", "triptychClass", "triptychScore"]].copy()
    wanted["found_as"], picked["is"] = None, None
    for name in wanted["rlnTomoName"].unique():
        ours, theirs = np.flatnonzero(wanted["rlnTomoName"] == name), np.flatnonzero(picked["rlnTomoName"] == name)
        reach = np.array([max(NEAR, radius[kind] / 2) for kind in wanted["triptychClass"].iloc[ours]])
        for i, j in match(truth.positions[ours], reach, found.positions[theirs]):
            wanted.loc[ours[i], "found_as"] = picked["triptychClass"][theirs[j]]
            picked.loc[theirs[j], "is"] = wanted["triptychClass"][ours[i]]
    return wanted, picked


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2 |a and b| / (|a| + |b|)."""
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def label_map(picks: Path, name: str, numbers: dict[str, int]) -> NDArray[np.uint16]:
    """The label map of a tomogram, the classes by other numbers; 0 where these have none."""
    translated = np.zeros(1 + max(number for number, _ in class_numbers(picks)), np.uint16)
    for number, kind in class_numbers(picks):
        translated[number] = numbers.get(kind, 0)
    return translated[read_mrc(picks / "labels" / f"{name}.mrc").data.astype(np.uint16)]


def class_numbers(folder: Path) -> list[tuple[int, str]]:
    """Numbers in label maps, and what they stand for."""
    named = read_star(folder / "classes.star")["classes"]
    return [(int(number), str(kind)) for number, kind in zip(named["rlnClassNumber"], named["triptychClass"], strict=True)]


def label_dice(tomograms: Path, picks: Path, classes: Sequence[str]) -> float:
    """Mean Dice of the classes of particles over all tomograms together."""
    numbers = {kind: number for number, kind in class_numbers(tomograms)}
    both, either = np.zeros(max(numbers.values()) + 1), np.zeros(max(numbers.values()) + 1)
    for file in sorted((tomograms / "classes").glob("*.mrc")):
        true, ours = read_mrc(file).data.astype(np.uint16), label_map(picks, file.stem, numbers)
        both += np.bincount(true[true == ours], minlength=len(both))
        either += np.bincount(true.ravel(), minlength=len(both)) + np.bincount(ours.ravel(), minlength=len(both))
    return float(np.mean([2 * both[numbers[kind]] / either[numbers[kind]] for kind in classes if either[numbers[kind]]]))


def best_threshold(
    wanted: pd.DataFrame, picked: pd.DataFrame, thresholds: NDArray[np.float64] = THRESHOLDS
) -> tuple[float, dict[str, float]]:
    """The score above which location is found best, and the figures there."""
    best = (0.0, {"f1": -1.0})
    for threshold in thresholds:
        kept = picked[picked["triptychScore"] >= threshold]
        right = int(kept["is"].notna().sum())
        figures = {
            "f1": f1(right, len(kept), len(wanted)),
            "precision": right / max(len(kept), 1),
            "recall": right / len(wanted),
            "f1_with_class": f1(int((kept["is"] == kept["triptychClass"]).sum()), len(kept), len(wanted)),
        }
        if figures["f1"] > best[1]["f1"]:
            best = (float(threshold), figures)
    return best


def per_class(wanted: pd.DataFrame, picked: pd.DataFrame) -> dict[str, dict[str, float]]:
    result = {}
    for name in sorted(wanted["triptychClass"].unique()):
        ours, theirs = wanted[wanted["triptychClass"] == name], picked[picked["triptychClass"] == name]
        right = int((theirs["is"] == name).sum())
        result[name] = {"particles": len(ours), "located": float(ours["found_as"].notna().mean()), "f1": f1(right, len(theirs), len(ours))}
    return result


def measure(arguments: argparse.Namespace, snr: float) -> dict[str, Any]:
    tomograms = arguments.work / f"tomograms_{snr:g}"
    config = make_tomograms(tomograms, arguments.library, tuple(arguments.shape), snr, arguments.tomograms)
    picks = arguments.work / f"{arguments.name}_{snr:g}"
    cost = run_pick(tomograms / "tomograms", picks, arguments.model)
    templates = prepare_templates(config)
    radius = {template.name: template.radius * config.voxel_size for template in templates}
    wanted, picked = judge(tomograms, picks, radius)
    threshold, figures = best_threshold(wanted, picked)
    kept = picked[picked["triptychScore"] >= threshold]
    classes = per_class(wanted, kept)
    mean = float(np.mean([row["f1"] for row in classes.values()]))
    mass = {structure.name: structure.mass_kda for structure in load_library(arguments.library)}
    return {
        "particles": len(wanted),
        "threshold": threshold,
        **figures,
        "mean_class_f1": mean,
        "label_dice": label_dice(tomograms, picks, list(radius)),
        "by_size": by_size(wanted, kept, mass),
        **cost,
        "classes": classes,
        "rivals": measure_rivals(arguments, tomograms, picks, templates, radius),
    }


def measure_rivals(
    arguments: argparse.Namespace, tomograms: Path, picks: Path, templates: Sequence[Template], radius: dict[str, float]
) -> dict[str, Any]:
    """The figures of other ways to pick; their seconds are those of this process, of one tomogram after another."""
    result: dict[str, Any] = {}
    if "dog" in arguments.rivals:
        out = picks.with_name(f"{picks.name}_dog")
        seconds = run_dog(tomograms, out, arguments.model)
        result["dog"] = {"seconds": seconds, **judge_rival(tomograms, out, radius, list(radius))}
    if "oriented" in arguments.rivals:
        out = picks.with_name(f"{picks.name}_oriented")
        seconds = run_oriented(picks, out, arguments.model, arguments.library)
        ours = judge_rival(tomograms, picks, radius, list(radius))
        judged = judge_rival(tomograms, out, radius, list(radius))
        result["oriented"] = {"seconds": seconds, **judged, "label_dice": label_dice(tomograms, out, list(radius)), "picked": ours}
    if "templates" in arguments.rivals:
        chosen = choose_templates(templates, arguments.templates)
        names = [template.name for template in chosen]
        out = picks.with_name(f"{picks.name}_templates")
        seconds = run_templates(tomograms, out, chosen, arguments.rotations)
        ours = judge_rival(tomograms, picks, radius, names)
        theirs = judge_rival(tomograms, out, radius, names)
        about = {"seconds": seconds, "rotations": arguments.rotations, "structures": names}
        result["templates"] = {**about, **theirs, "triptych_on_the_same_particles": ours}
    return result


def judge_rival(tomograms: Path, picks: Path, radius: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """Figures at the best threshold, of the particles and picks of some classes only."""
    wanted, picked = judge(tomograms, picks, radius)
    wanted, picked = wanted[wanted["triptychClass"].isin(names)], picked[picked["triptychClass"].isin(names)]
    scores = np.unique(np.quantile(picked["triptychScore"], np.linspace(0, 0.98, 50))) if len(picked) else THRESHOLDS
    threshold, figures = best_threshold(wanted, picked.assign(**{"is": picked["is"].where(picked["is"].isin(names))}), scores)
    classes = per_class(wanted, picked[picked["triptychScore"] >= threshold])
    mean = float(np.mean([row["f1"] for row in classes.values()]))
    return {"particles": len(wanted), "picks": len(picked), "threshold": threshold, **figures, "mean_class_f1": mean}


def by_size(wanted: pd.DataFrame, kept: pd.DataFrame, mass: dict[str, float]) -> dict[str, dict[str, float]]:
    """Share of the particles of some masses that are found, and found by their name."""
    masses = wanted["triptychClass"].map(mass)
    result = {}
    for name, (low, high) in SIZES.items():
        ours = wanted[(masses >= low) & (masses < high)]
        if len(ours):
            named = (ours["found_as"] == ours["triptychClass"]).mean()
            result[name] = {"particles": len(ours), "located": float(ours["found_as"].notna().mean()), "named": float(named)}
    return result


def draw(tomograms: Path, picks: Path, threshold: float, path: Path) -> None:
    """A slice through the middle of the first tomogram: grey values, true classes, label map, and the picks near it."""
    name = "tomogram_0000.mrc"
    grey, truth = (mmap_mrc(tomograms / kind / name).data for kind in ("tomograms", "classes"))
    labels = label_map(picks, Path(name).stem, {kind: number for number, kind in class_numbers(tomograms)})
    number = grey.shape[0] // 2
    found = particles_from_relion(picks / "particles.star")
    assert found.positions is not None
    place = found.positions / mmap_mrc(tomograms / "tomograms" / name).voxel_size
    near = (np.abs(place[:, 2] - number) < 10) & (found.table["triptychScore"] >= threshold) & (found.table["rlnTomoName"] == Path(name).stem)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    axes[0].imshow(ndimage.uniform_filter(np.asarray(grey[number - 2 : number + 3]), (5, 3, 3))[2], cmap="gray")
    axes[0].scatter(place[near, 0], place[near, 1], s=90, facecolors="none", edgecolors="tab:orange", linewidths=1)
    colours = {"cmap": "nipy_spectral", "interpolation": "nearest", "vmin": 0, "vmax": int(truth.max())}
    axes[1].imshow(truth[number], **colours)
    axes[2].imshow(labels[number], **colours)
    for axis, title in zip(axes, ("mean of five slices; circles: picks within 100 Å", "true classes", "label map of triptych pick"), strict=True):
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=[200, 512, 512])
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--tomograms", type=int, default=1)
    parser.add_argument("--name", default="picking")
    parser.add_argument("--rivals", nargs="*", choices=("dog", "templates", "oriented"), default=[])
    parser.add_argument("--templates", type=int, default=6, help="structures for template matching")
    parser.add_argument("--rotations", type=int, default=500, help="of each template; neighbours among 500 are 24° apart")
    parser.add_argument("--picture", type=Path, help="PNG file of a slice at the first SNR")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tests = {f"{snr:g}": measure(arguments, snr) for snr in arguments.snr}
    if arguments.picture:
        first = f"{arguments.snr[0]:g}"
        folders = arguments.work / f"tomograms_{first}", arguments.work / f"{arguments.name}_{first}"
        draw(*folders, tests[first]["threshold"], arguments.picture)
    figures = {"shape": arguments.shape, "tomograms": arguments.tomograms, "tests": tests}
    write_result(arguments.name, SEED, figures, load_model(arguments.model), arguments.results)


if __name__ == "__main__":
    main()
