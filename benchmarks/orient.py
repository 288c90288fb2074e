"""How well `orient` finds poses, and what masks and densities gain where the structure is put in its pose.

    python benchmarks/orient.py WORK [--particles 270] [--snrs 0.1 0.03]

Particles of the 18 built-in structures, simulated with the default settings (neighbours, missing wedge, CTF, noise) and predicted with the shipped
model, are oriented with and without the refinement by the subtomograms. Poses are judged where the class is right, up to the symmetry that the
structure has at this resolution; masks and densities of every particle that got a pose, rightly named or not, beside those that the network
itself drew. Each step is kept in WORK, and what is there is not made again. Writes benchmarks/results/orient.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from cells import timed
from results import write_result

from triptych.config import NONE_CLASS, OrientConfig, PredictConfig, SimulateConfig
from triptych.io.mrc import read_mrc
from triptych.io.predictions import read_predictions
from triptych.io.relion import ANGLES, AXES, rotations_from_angles
from triptych.io.star import read_star
from triptych.io.store import open_store
from triptych.metrics import density_correlation, intersection_over_union, median
from triptych.model import load_model
from triptych.orient import orient
from triptych.predict import predict
from triptych.rotations import angular_errors
from triptych.simulate import simulate
from triptych.structures import Structure, load_library
from triptych.symmetry import find_symmetry

NEAR = 10.0
"""Degrees: a pose is right within them."""
SEED = 2026


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


def judge_maps(folder: Path, table: Any, rows: np.ndarray, truth: Any) -> dict[str, float]:
    """Mean IoU and correlation of the maps that a table lists, of the rows of a store."""
    masks, densities = (np.stack([read_mrc(folder / path).data for path in table[f"triptych{kind}"]]) for kind in ("Mask", "Density"))
    iou = intersection_over_union(masks > 0.5, truth.read_rows("mask", rows))
    return {
        "mean_iou": float(np.nanmean(iou)),
        "mean_density_correlation": float(np.nanmean(density_correlation(densities, truth.read_rows("density", rows)))),
    }


def run_test(work: Path, particles: int, snr: float, groups: dict[str, np.ndarray | None]) -> dict[str, Any]:
    store, predictions = work / f"data_{snr:g}.zarr", work / f"predictions_{snr:g}"
    if not store.exists():
        simulate(store, SimulateConfig(particles=particles, none_share=0, tile_share=0, snr=(snr, snr), seed=SEED))
    timed(predictions, lambda: predict(store, predictions, config=PredictConfig()))
    truth, given = open_store(store), read_predictions(predictions)
    names = np.array(truth.class_names)[truth["label"][:]]
    result: dict[str, Any] = {}
    for way, refine in (("recovered", False), ("recovered_then_refined", True)):
        out = work / f"{way}_{snr:g}"
        seconds = timed(out, lambda out=out, refine=refine: orient(predictions, out, OrientConfig(unknown=True, refine=refine)))  # type: ignore[misc]
        table = read_star(out / "particles.star")["particles"]
        rows = np.array([given.names.index(name) for name in table["triptychName"]])
        own = given.table.iloc[rows]
        result[way] = {
            **judge_poses(table, rows, truth, names, groups),
            "placed": judge_maps(out, table, rows, truth),
            "network": judge_maps(predictions, own, rows, truth),
            "oriented": len(table),
            "seconds": seconds,
        }
    return {"particles": len(given), "called_none": int((given.table["triptychClass"] == NONE_CLASS).sum()), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--particles", type=int, default=270)
    parser.add_argument("--snrs", type=float, nargs="+", default=[0.1, 0.03])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    groups = symmetry_groups(load_library())
    tests = {f"{snr:g}": run_test(arguments.work, arguments.particles, snr, groups) for snr in arguments.snrs}
    write_result("orient", SEED, {"tests": tests}, load_model())


if __name__ == "__main__":
    main()
