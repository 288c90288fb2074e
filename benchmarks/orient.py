"""How well `orient` names particles and finds poses, and what masks and densities gain where the structure is put in its pose.

    python benchmarks/orient.py WORK [--library FOLDER] [--particles 1080] [--snrs 0.1 0.03] [--picture docs/images/orienting.png]
                               [--results FOLDER]

Particles of the 18 built-in structures, or with --library (made by `triptych structures make`) of all that the model knows, and "none",
simulated with the default settings (neighbours, missing wedge, CTF, noise) and predicted with the shipped model, are oriented by recovered
densities alone, and as is the default: by the subtomograms too, with the trial of rivals. Poses are judged where the class is right, up to
the symmetry that the structure has at this resolution; masks and densities of every particle that got a pose, rightly named or not, beside
those that the network itself drew. In the end all particles are counted, those without a pose as the network had them. Each step is kept in
WORK, and what is there is not made again. Writes benchmarks/results/orient.json, a block for each SNR, and leaves those of other SNRs
there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from cells import timed
from results import FOLDER, write_result
from sklearn.metrics import roc_auc_score

from triptych.alignment.matching import Poses, make_band, make_reference
from triptych.alignment.pose_confidence import ALIKE, similarity
from triptych.alignment.rotations import angular_errors
from triptych.alignment.symmetry import find_symmetry
from triptych.config import NONE_CLASS, AlignConfig, OrientConfig, PredictConfig, SimulateConfig
from triptych.fourier import resample_to_box
from triptych.io.mrc import read_mrc
from triptych.io.predictions import read_predictions
from triptych.io.relion import ANGLES, AXES, rotations_from_angles
from triptych.io.star import read_star
from triptych.io.store import open_store
from triptych.judging.metrics import density_correlation, expected_calibration_error, intersection_over_union, median
from triptych.recognition.model import load_model
from triptych.simulation.library import load_library
from triptych.simulation.structures import Structure
from triptych.stages.orient import orient
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate

NEAR = 10.0
"""Degrees: a pose is right within them."""
ABOUT = 20.0
"""Degrees within which a pose is about right, as it is where the structure looks the same in the true pose: a pose that is not is another one."""
SURE = 0.9
SEED = 2026
SHOWN = ("ribosome_70s", "ribosome_30s", "proteasome_20s", "tric", "groel_groes", "rna_polymerase_2", "nucleosome", "hsp90_sba1", "spike")
"""Classes in the picture."""
WAYS = {
    "recovered": {"align_by": "recovered"},
    "rivals_tried": {},
}
"""Settings of orient."""


def symmetry_groups(structures: list[Structure]) -> dict[str, np.ndarray | None]:
    """Rotations that leave each structure as it is, as far as its own voxels tell."""
    found = {item.name: find_symmetry(item.density.data, item.density.voxel_size) for item in structures}
    return {name: symmetries[0].rotations if symmetries else None for name, symmetries in found.items()}


def judge_poses(table: Any, rows: np.ndarray, truth: Any, names: np.ndarray, groups: dict[str, np.ndarray | None]) -> dict[str, Any]:
    """Errors of the poses of particles that were named rightly."""
    rotations = rotations_from_angles(table[list(ANGLES)].to_numpy(np.float64))
    shifts = -table[[f"rlnOrigin{axis}Angst" for axis in AXES]].to_numpy(np.float64)
    true_rotations, true_shifts = (np.asarray(truth[name][:], np.float64)[rows] for name in ("rotation", "shift"))
    errors = np.full(len(rows), np.nan)
    right = table["triptychClass"].to_numpy() == names[rows]
    for name in np.unique(names[rows][right]):
        own = right & (names[rows] == name)
        errors[own] = angular_errors(rotations[own], true_rotations[own], groups[name])
    moved = np.linalg.norm(shifts - true_shifts, axis=1)
    return {
        "named_rightly": int(right.sum()),
        "median_angular_error": median(errors[right]),
        "share_within_10_degrees": float((errors[right] < NEAR).mean()),
        "median_shift_error": median(moved[right]),
        "within_10_degrees_of_each": {name: float((errors[right & (names[rows] == name)] < NEAR).mean()) for name in np.unique(names[rows][right])},
    }


def judge_probabilities(table: Any, rows: np.ndarray, truth: Any, names: np.ndarray, structures: list[Structure]) -> dict[str, Any]:
    """Whether the probabilities of poses tell those that are about right, of all particles, and whether their scores would."""
    rotations = rotations_from_angles(table[list(ANGLES)].to_numpy(np.float64))
    true = np.asarray(truth["rotation"][:], np.float64)[rows]
    classes, right = table["triptychClass"].to_numpy(), np.zeros(len(rows), bool)
    for item in structures:
        own = np.flatnonzero((classes == item.name) & (names[rows] == item.name))
        if len(own):
            right[own] = lies_alike(item, rotations[own], true[own])
    sure = table["triptychPoseProbability"].to_numpy(np.float64)
    return {
        "about_right": float(right.mean()),
        "auroc": float(roc_auc_score(right, sure)),
        "auroc_of_the_score": float(roc_auc_score(right, table["triptychAlignmentScore"].to_numpy(np.float64))),
        "expected_calibration_error": expected_calibration_error(sure, right),
        "sure": float((sure >= SURE).mean()),
        "about_right_of_the_sure": float(right[sure >= SURE].mean()),
        "about_right_of_the_others": float(right[sure < SURE].mean()),
    }


def lies_alike(structure: Structure, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether a structure lies about the same in two rotations each, (n,): by the angle between them, or by its looks."""
    density, config = structure.density, AlignConfig()
    band = make_band(density.shape[0], density.voxel_size, config.resolution, torch.device("cpu"))
    reference = make_reference(torch.from_numpy(np.ascontiguousarray(density.data)), band)
    nowhere = torch.zeros(len(a), 3, dtype=torch.float64)
    one, other = (Poses(torch.from_numpy(rotations), nowhere, nowhere[:, 0]) for rotations in (a, b))
    alike = similarity(reference, one, other).numpy() >= ALIKE
    return np.asarray(alike | (angular_errors(a, b, None) < ABOUT))


def judge_maps(folder: Path, table: Any, rows: np.ndarray, truth: Any) -> pd.DataFrame:
    """IoU and correlation of the maps that a table lists, of the rows of a store."""
    found = []
    for some in np.array_split(np.arange(len(rows)), -(-len(rows) // 64)):
        masks, densities = (np.stack([read_mrc(folder / path).data for path in table[f"triptych{kind}"].iloc[some]]) for kind in ("Mask", "Density"))
        iou = intersection_over_union(masks > 0.5, truth.read_rows("mask", rows[some]))
        correlation = density_correlation(densities, truth.read_rows("density", rows[some]))
        found.append(pd.DataFrame({"mean_iou": iou, "mean_density_correlation": correlation}, index=table["triptychName"].iloc[some].to_list()))
    return pd.concat(found)


def judge_all(table: pd.DataFrame, maps: pd.DataFrame, names: np.ndarray) -> dict[str, Any]:
    """Accuracy and calibration of all particles, means over the maps of those that are not "none"."""
    right = table["triptychClass"].to_numpy() == names
    error = expected_calibration_error(table["triptychProbability"].to_numpy(np.float64), right)
    return {"accuracy": float(right.mean()), "expected_calibration_error": error, **maps.loc[names != NONE_CLASS].mean().to_dict()}


def run_test(
    work: Path, library: Path | None, particles: int, snr: float, groups: dict[str, np.ndarray | None], structures: list[Structure]
) -> dict[str, Any]:
    store, predictions = work / f"data_{snr:g}.zarr", work / f"predictions_{snr:g}"
    if not store.exists():
        simulate(store, SimulateConfig(structures=library, particles=particles, tile_share=0, snr=(snr, snr), seed=SEED))
    timed(predictions, lambda: predict(store, predictions, config=PredictConfig()))
    truth, given = open_store(store), read_predictions(predictions)
    names = np.array(truth.class_names)[truth["label"][:]]
    drawn = judge_maps(predictions, given.table, np.arange(len(given)), truth)
    result: dict[str, Any] = {"network": judge_all(given.table, drawn, names)}
    for way, settings in WAYS.items():
        out = work / f"{way}_{snr:g}"
        config = OrientConfig.model_validate({"library": library, "unknown": True, **settings})
        seconds = timed(out, lambda out=out, config=config: orient(predictions, out, config))  # type: ignore[misc]
        table = pd.DataFrame(read_star(out / "particles.star")["particles"])
        rows = np.array([given.names.index(name) for name in table["triptychName"]])
        placed = judge_maps(out, table, rows, truth)
        whole, maps = given.table.set_index("triptychName"), drawn.copy()
        columns = ["triptychClass", "triptychProbability"]
        whole.loc[table["triptychName"], columns] = table[columns].to_numpy()
        maps.loc[placed.index] = placed
        result[way] = {
            **judge_poses(table, rows, truth, names, groups),
            **({"pose_probability": judge_probabilities(table, rows, truth, names, structures)} if way == "rivals_tried" else {}),
            "placed": placed.mean().to_dict(),
            "network": drawn.loc[placed.index].mean().to_dict(),
            "all": judge_all(whole, maps, names),
            "oriented": len(table),
            "seconds": seconds,
        }
    return {"particles": len(given), "called_none": int((given.table["triptychClass"] == NONE_CLASS).sum()), **result}


def draw_averages(folder: Path, path: Path) -> None:
    """Central slices of the averages of some classes, and of the structures that they should look like."""
    names = read_star(folder / "classes.star")["classes"]["triptychClass"]
    structures = {item.name: item.density for item in load_library()}
    figure, axes = plt.subplots(4, len(SHOWN), figsize=(1.35 * len(SHOWN), 5.6), facecolor="white", layout="constrained")
    for column, name in zip(axes.T, [name for name in SHOWN if name in set(names)], strict=True):
        average = read_mrc(folder / "averages" / f"{name}.mrc")
        structure = resample_to_box(structures[name], average.voxel_size, average.shape[0], fill=0)
        middle = average.shape[0] // 2
        for i, data in enumerate((average.data, structure)):
            for k, plane in enumerate((data[middle], data[:, middle])):
                column[2 * i + k].imshow(plane, cmap="gray", origin="lower")
                column[2 * i + k].set(xticks=[], yticks=[])
        column[0].set_title(name.replace("_", " "), fontsize=7.5)
    for row, text in zip(axes[:, 0], ("average, xy", "average, xz", "structure, xy", "structure, xz"), strict=True):
        row.set_ylabel(text, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--particles", type=int, default=1080)
    parser.add_argument("--snrs", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    structures = load_library(arguments.library)
    groups = symmetry_groups(structures)
    path = arguments.results / "orient.json"
    for snr in arguments.snrs:
        found = run_test(arguments.work, arguments.library, arguments.particles, snr, groups, structures)
        tests = json.loads(path.read_text())["tests"] if path.exists() else {}
        write_result("orient", SEED, {"structures": len(groups), "tests": {**tests, f"{snr:g}": found}}, load_model(), arguments.results)
    if arguments.picture:
        draw_averages(arguments.work / f"rivals_tried_{arguments.snrs[0]:g}", arguments.picture)


if __name__ == "__main__":
    main()
