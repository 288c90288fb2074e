"""Whether particles are better aligned through their recovered densities than as they are, with the same search.

    python benchmarks/alignment.py WORK [--classes ribosome_50s rna_polymerase_2] [--particles 50] [--snr 0.1] [--model FOLDER] [--seed N]

Simulates particles of each class (default settings, neighbours included), predicts them with the model, and aligns them in three ways:
the recovered densities; the subtomograms, with their missing wedge and CTF (constrained cross-correlation); and the recovered densities first, from
whose poses the subtomograms are then refined, as `triptych discover` does. Each is done twice: against the structure itself, and without any
reference, as it must be for a structure that nobody knows; then the average that came out is turned onto the structure to compare the poses.
The class is taken as known. Errors are against the true poses, up to the symmetry that the structure has; the resolution is that of the
average of the subtomograms with the poses found, where its Fourier shell correlation with the structure falls below one half, within a mask
around the structure. Noise that is fitted to the structure makes the average of the subtomograms look better than it is, more so where
they were aligned as they are. The average in the true poses is given beside them.
A cell is a class at an SNR; one whose file benchmarks/results/alignment/CLASS_SNR.json exists is not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from results import FOLDER, exists_already, write_result

from triptych.alignment.align import Alignment, align, average, consensus
from triptych.alignment.rotations import angular_errors
from triptych.alignment.symmetry import find_symmetry
from triptych.config import AlignConfig, Device, PredictConfig, SimulateConfig
from triptych.fourier import fourier_shell_correlation, resample_to_box, resolution_at, wedge_weights
from triptych.io.mrc import read_mrc
from triptych.io.store import Store, open_store, particle_name
from triptych.io.transfers import stored_transfers
from triptych.judging.metrics import median
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.simulation.library import load_library
from triptych.simulation.structures import Structure
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.volume import soften, standardise

NEAR = 10.0
"""Degrees: a pose is right within them."""
PER_TOMOGRAM = 8
"""So that the particles have several defoci between them: where the CTF of all is zero, nothing brings anything back."""
MASK_REACH = 20.0
"""Å that the soft mask reaches beyond the structure."""


def simulate_class(work: Path, name: str, particles: int, snr: float, seed: int) -> Store:
    """Particles of one class; simulated once."""
    path = work / f"{name}_{snr:g}.zarr"
    if not path.exists():
        config = SimulateConfig(
            classes=(name,), particles=particles, particles_per_tomogram=PER_TOMOGRAM, none_share=0.0, tile_share=0.0, snr=(snr, snr), seed=seed
        )
        simulate(path, config)
    return open_store(path)


def recover(store: Store, model: Path, device: Device) -> NDArray[np.float32]:
    """Recovered densities of all particles; predicted once."""
    folder = store.path.with_suffix(".predictions")
    if not folder.exists():
        predict(store.path, folder, model, PredictConfig(device=device, write_masks=False))
    return np.stack([read_mrc(folder / "densities" / f"{particle_name(row)}.mrc").data for row in range(len(store))])


def judge(
    found: Alignment,
    truth: Alignment,
    group: NDArray[np.float64] | None,
    density: NDArray[np.float32],
    reference: NDArray[np.float32],
    voxel_size: float,
) -> dict[str, Any]:
    """Errors of the poses, and the resolution of an average against the masked reference."""
    errors = angular_errors(found.rotations, truth.rotations, group)
    frequencies, correlation = fourier_shell_correlation(density, reference, voxel_size)
    return {
        "median_angular_error": median(errors),
        "share_within_10_degrees": float((errors < NEAR).mean()),
        "median_shift_error": median(np.linalg.norm(found.shifts - truth.shifts, axis=1)),
        "resolution": resolution_at(frequencies, correlation, 0.5),
        "fsc": correlation.tolist(),
    }


class Case(NamedTuple):
    """Particles of a class, their recovered densities, what was measured of them, and the structure, all (n, d, d, d) or (d, d, d)."""

    subtomograms: NDArray[np.float32]
    recovered: NDArray[np.float32]
    wedges: NDArray[np.float32]
    structure: NDArray[np.float32]
    voxel_size: float
    config: AlignConfig


def find_poses(
    case: Case, volumes: NDArray[np.float32], wedges: NDArray[np.float32] | None, seed: int | None
) -> tuple[NDArray[np.float32], Alignment]:
    """Poses against the structure; with a seed, without it: then also the average, in its own frame."""
    if seed is None:
        return case.structure, align(volumes, case.structure, case.voxel_size, case.config, wedges=wedges)
    return consensus(volumes, case.voxel_size, np.random.default_rng(seed), case.config, wedges=wedges)


def in_frame_of_structure(case: Case, reference: NDArray[np.float32], poses: Alignment) -> Alignment:
    """Poses against an average -> poses against the structure onto which the average is turned."""
    own = align(reference[None], case.structure, case.voxel_size, case.config)
    return Alignment(poses.rotations @ own.rotations[0], poses.rotations @ own.shifts[0] + poses.shifts, poses.scores)


def align_in_three_ways(case: Case, seed: int | None) -> dict[str, tuple[Alignment, float]]:
    """Poses against the structure, and the seconds that they took."""
    started = time.perf_counter()
    reference, poses = find_poses(case, case.recovered, None, seed)
    recovered = time.perf_counter() - started
    refined = align(case.subtomograms, reference, case.voxel_size, case.config, wedges=case.wedges, start=poses)
    both = time.perf_counter() - started
    started = time.perf_counter()
    average_of_raw, raw = find_poses(case, case.subtomograms, case.wedges, seed)
    subtomograms = time.perf_counter() - started
    found = {
        "recovered": (reference, poses, recovered),
        "recovered_then_refined": (reference, refined, both),
        "subtomograms": (average_of_raw, raw, subtomograms),
    }
    if seed is None:
        return {name: (own, seconds) for name, (_, own, seconds) in found.items()}
    return {name: (in_frame_of_structure(case, density, own), seconds) for name, (density, own, seconds) in found.items()}


def run_cell(arguments: argparse.Namespace, structure: Structure) -> dict[str, Any]:
    store = simulate_class(arguments.work, structure.name, arguments.particles, arguments.snr, arguments.seed)
    size, voxel_size = store.box_size, store.voxel_size
    rows = np.arange(len(store))
    sign = np.float32(-1 if store.contrast == "dark" else 1)
    subtomograms = sign * standardise(store.read_rows("subtomogram", rows).astype(np.float32))
    limits = zip(store["tilt_min"][:], store["tilt_max"][:], strict=True)
    wedges = np.stack([wedge_weights((size,) * 3, float(low), float(high)) for low, high in limits])
    transfers = stored_transfers(store)
    assert transfers is not None
    wedges *= np.stack([transfers.of(int(row), size, voxel_size) for row in rows])
    truth = Alignment(np.asarray(store["rotation"][:], np.float64), np.asarray(store["shift"][:], np.float64), np.ones(len(store), np.float32))
    reference = resample_to_box(structure.density, voxel_size, size, fill=0)
    mask = soften(reference > structure.contour, voxel_size, MASK_REACH, MASK_REACH)
    symmetries = find_symmetry(reference, voxel_size)
    group = symmetries[0].rotations if symmetries else None
    config = AlignConfig(device=arguments.device)
    case = Case(subtomograms, recover(store, arguments.model, arguments.device), wedges, reference, voxel_size, config)

    def judge_poses(found: Alignment) -> dict[str, Any]:
        density, _ = average(subtomograms, found, voxel_size, wedges, config)
        return judge(found, truth, group, density * mask, reference * mask, voxel_size)

    result: dict[str, Any] = {"symmetry": symmetries[0].name if symmetries else "C1", "true_poses": judge_poses(truth)}
    for name, seed in (("with_the_structure", None), ("without_reference", arguments.seed)):
        ways = align_in_three_ways(case, seed)
        result[name] = {way: {**judge_poses(found), "seconds": round(seconds, 1)} for way, (found, seconds) in ways.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and predictions")
    parser.add_argument("--classes", nargs="+", default=["ribosome_50s", "rna_polymerase_2"])
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--results", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments.model, arguments.device)
    structures = {structure.name: structure for structure in load_library()}
    for name in arguments.classes:
        cell = f"alignment/{name}_{arguments.snr:g}"
        if exists_already(arguments.results / f"{cell}.json"):
            continue
        figures = run_cell(arguments, structures[name])
        head = {"class": name, "particles": arguments.particles, "snr": arguments.snr}
        write_result(cell, arguments.seed, {**head, **figures}, model, arguments.results)


if __name__ == "__main__":
    main()
