"""Poses that are right, wrong, one of several that are alike, and of nothing: what the best of the other poses says of each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_align import BOX_SIZE, QUICK, TILT_RANGE, VOXEL_SIZE, make_copies

from triptych.alignment.align import Alignment, align
from triptych.alignment.pose_confidence import NO_OTHER, pose_probabilities, score_other_poses
from triptych.alignment.rivals import count_measured
from triptych.fourier import wedge_weights

WEDGE = wedge_weights((BOX_SIZE,) * 3, *TILT_RANGE)[None]


@pytest.mark.parametrize("name", ["ribosome_30s", "proteasome_20s"])  # without symmetry, and with D7
def test_other_poses_fit_less_well_than_the_right_one(name: str) -> None:
    copies = make_copies(name, 4, noise=1.0, wedge=WEDGE[0])
    found = align(copies.volumes, copies.reference, VOXEL_SIZE, QUICK, wedges=WEDGE)
    others = score_other_poses(copies.volumes, copies.reference, VOXEL_SIZE, found, QUICK, wedges=WEDGE)
    assert (others < found.scores - 0.03).all()
    assert name != "ribosome_30s" or (others > NO_OTHER).all()
    assert (others[others > NO_OTHER] > 0.3).all()
    assert (pose_probabilities(found.scores, others, count_measured(WEDGE, VOXEL_SIZE, QUICK)) > 0.99).all()


def test_a_wrong_pose_is_not_sure() -> None:
    copies = make_copies("ribosome_30s", 3, noise=1.0)
    astray = Rotation.from_euler("x", 100, degrees=True).as_matrix() @ copies.truth.rotations
    start = Alignment(astray, copies.truth.shifts, copies.truth.scores)
    found = align(copies.volumes, copies.reference, VOXEL_SIZE, QUICK, start=start)
    others = score_other_poses(copies.volumes, copies.reference, VOXEL_SIZE, found, QUICK)
    assert (others > found.scores).all()
    assert (pose_probabilities(found.scores, others, np.array([1000.0])) < 0.1).all()


def test_what_looks_the_same_in_all_poses_has_no_other() -> None:
    axis = np.arange(BOX_SIZE) - BOX_SIZE // 2
    ball = (sum(np.meshgrid(axis**2, axis**2, axis**2, indexing="ij")) < 8**2).astype(np.float32)  # type: ignore[attr-defined]
    found = align(ball[None], ball, VOXEL_SIZE, QUICK)
    others = score_other_poses(ball[None], ball, VOXEL_SIZE, found, QUICK)
    assert others.tolist() == [NO_OTHER]
    assert pose_probabilities(found.scores, others, np.array([1000.0])).tolist() == [1]


def test_noise_is_less_sure_than_a_particle() -> None:
    copies = make_copies("ribosome_30s", 8, noise=3.0)
    noise = np.random.default_rng(5).normal(size=copies.volumes.shape).astype(np.float32)
    sure = []
    for volumes in (copies.volumes, noise):
        found = align(volumes, copies.reference, VOXEL_SIZE, QUICK)
        others = score_other_poses(volumes, copies.reference, VOXEL_SIZE, found, QUICK)
        sure.append(pose_probabilities(found.scores, others, np.array([1000.0])))
    assert np.median(sure[1]) < 0.75 < sure[0].min()
