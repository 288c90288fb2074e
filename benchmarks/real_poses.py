"""Poses of twenty real ribosomes (../shared/data/ribosome_70s_real): by the subtomograms, and by the densities that the shipped model recovers.

    python benchmarks/real_poses.py [--model FOLDER] [--seed N] [--results FOLDER]

The particles are mirrored first, since their tomograms have the wrong hand (docs/real_data.md), and compared in the poses that come with
them. With the averaged density as reference the search only has to find the pose (`triptych orient` takes the better of two); without a
reference it also has to find what the particles have in common, as `triptych discover` has to. The resolution is that of the average of the
subtomograms in the poses found, where its Fourier shell correlation with the averaged density falls below one half, within a mask around
that. Writes benchmarks/results/real_poses.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_ribosomes import DATA, read_all
from results import FOLDER, write_result
from sklearn.metrics import roc_auc_score

from triptych.alignment.align import Alignment, align, average, consensus
from triptych.alignment.identify import mirror
from triptych.alignment.pose_confidence import pose_probabilities, score_other_poses
from triptych.alignment.rivals import better, count_measured
from triptych.alignment.rotations import angular_errors
from triptych.config import ASSUMED_TILT_RANGE, AlignConfig
from triptych.fourier import fourier_shell_correlation, resolution_at, wedge_weights
from triptych.io.mrc import read_mrc
from triptych.judging.metrics import median
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.volume import soften, standardise

NEAR = 20.0
"""Degrees: a pose is about right within them."""
BRIGHTEST = 0.03
"""Share of the reference's voxels that are taken as the ribosome."""
MASK_REACH = 20.0
CONFIG = AlignConfig()


def mirrored_poses(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses of mirrored particles (x -> -x) against the reference; the given ones are those of its mirror image (z -> -z)."""
    return np.asarray(np.diag([-1.0, 1, 1]) @ poses @ np.diag([1.0, 1, -1]))


def judge(
    found: Alignment, truth: NDArray[np.float64], volumes: NDArray[np.float32], reference: NDArray[np.float32], voxel_size: float
) -> dict[str, Any]:
    """Angular errors, and the resolution of the average."""
    errors = angular_errors(found.rotations, truth)
    density, _ = average(volumes, found, voxel_size, wedge(volumes), CONFIG)
    mask = soften(reference > np.quantile(reference, 1 - BRIGHTEST), voxel_size, MASK_REACH, MASK_REACH)
    resolution = resolution_at(*fourier_shell_correlation(density * mask, reference * mask, voxel_size), 0.5)
    return {"median_angular_error": median(errors), "share_within_20_degrees": float((errors < NEAR).mean()), "resolution": resolution}


def wedge(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
    """One for all; the tilts are not known, and assumed."""
    size = volumes.shape[-1]
    return wedge_weights((size, size, size), *ASSUMED_TILT_RANGE)[None]


def onto(reference: NDArray[np.float32], found: tuple[NDArray[np.float32], Alignment], voxel_size: float) -> Alignment:
    """Poses against an average of their own as poses against the reference onto which that average is turned."""
    own = align(found[0][None], reference, voxel_size, CONFIG)
    poses = found[1]
    return Alignment(poses.rotations @ own.rotations[0], poses.rotations @ own.shifts[0] + poses.shifts, poses.scores)


def judge_order(
    found: Alignment, truth: NDArray[np.float64], volumes: NDArray[np.float32], reference: NDArray[np.float32], voxel_size: float
) -> dict[str, Any]:
    """Whether scores, or probabilities, put the poses that are about right first."""
    others = score_other_poses(volumes, reference, voxel_size, found, CONFIG, wedges=wedge(volumes))
    sure = pose_probabilities(found.scores, others, count_measured(wedge(volumes), voxel_size, CONFIG))
    right, half = angular_errors(found.rotations, truth) < NEAR, len(truth) // 2
    surest = np.argsort(-sure, kind="stable")
    return {
        "auroc_of_the_score": float(roc_auc_score(right, found.scores)),
        "auroc_of_the_probability": float(roc_auc_score(right, sure)),
        "mean_probability": float(sure.mean()),
        "about_right_of_the_surest_half": float(right[surest[:half]].mean()),
        "about_right_of_the_others": float(right[surest[half:]].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the ribosomes are not at {DATA}: this benchmark needs them")
    model = load_model(arguments.model)
    items = read_all(DATA)
    voxel_size = items[0].voxel_size
    particles = [volume.with_data(np.ascontiguousarray(mirror(volume.data))) for volume in items]
    result = model.predict(particles, contrast="dark")
    assert result.densities is not None
    recovered, volumes = np.stack(result.densities), np.stack([standardise(-volume.data) for volume in particles])
    reference = read_mrc(DATA / "reference.mrc").data
    truth = mirrored_poses(np.load(DATA / "truth.npz", allow_pickle=False)["pose_matrix"].astype(np.float64))
    by_density = align(recovered, reference, voxel_size, CONFIG)
    by_subtomogram, refined = (align(volumes, reference, voxel_size, CONFIG, wedges=wedge(volumes), start=start) for start in (None, by_density))
    rng = np.random.default_rng
    ways = {
        "reference, subtomograms": by_subtomogram,
        "reference, recovered densities": by_density,
        "reference, recovered densities, then subtomograms": refined,
        "reference, the better of both": better(by_subtomogram, refined),
        "none, recovered densities": onto(reference, consensus(recovered, voxel_size, rng(arguments.seed), CONFIG), voxel_size),
        "none, subtomograms": onto(reference, consensus(volumes, voxel_size, rng(arguments.seed), CONFIG, wedges=wedge(volumes)), voxel_size),
    }
    true = Alignment(truth, np.zeros((len(truth), 3)), np.ones(len(truth), np.float32))
    found = {name: judge(poses, truth, volumes, reference, voxel_size) for name, poses in {"the given poses": true, **ways}.items()}
    order = judge_order(by_subtomogram, truth, volumes, reference, voxel_size)
    write_result("real_poses", arguments.seed, {"particles": len(truth), "ways": found, "order_of_the_subtomograms": order}, model, arguments.results)


if __name__ == "__main__":
    main()
