"""How sure a pose is: does any pose in which the structure lies otherwise fit the particle nearly as well?

The score of a pose tells little of that. A particle that is clear in itself fits its structure well in many poses, and where details are missing
wrong poses score as high as right ones. What tells is the distance to the best of the other poses.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from triptych.alignment.align import (
    APART,
    FINALISTS,
    FINE_STEPS,
    PARTICLES_AT_ONCE,
    Alignment,
    Matcher,
    best_of_each,
    check_reference,
    check_volumes,
    climb,
    make_matcher,
    of_particles,
    to_tensor,
)
from triptych.alignment.matching import (
    BOX,
    Poses,
    Reference,
    inner,
    lie_within,
    make_particle_terms,
    refine,
    score,
    search,
    shift_phases,
    turn,
)
from triptych.alignment.rivals import log_likelihoods
from triptych.config import AlignConfig

ALIKE = 0.9
"""Correlation of a structure in two poses from which on they are one: it looks the same in both, as a symmetric one does."""
INDEPENDENT = 0.5
"""Of the numbers that tell structures apart (`rivals.INDEPENDENT`) this share tells poses of one apart; with it simulated particles are right."""
NO_OTHER = -1.0
"""The score of the best other pose where there is none: the structure looks the same in all, or refined they all become the one that was found."""


def score_other_poses(
    volumes: NDArray[np.float32],
    reference: NDArray[np.float32],
    voxel_size: float,
    found: Alignment,
    config: AlignConfig | None = None,
    *,
    wedges: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The best score of each volume in a pose in which the reference lies otherwise than in the one that was found, (n,).

    Otherwise is what makes a difference at `config.resolution`: turned by a symmetry of the reference it lies the same.

    Parameters
    ----------
    volumes, reference, voxel_size, wedges : as for `align`
    found : the pose of each volume

    Returns
    -------
    Correlations as `Alignment.scores` are; -1 where no other pose was found
    """
    config = config or AlignConfig()
    wedges = check_volumes(volumes, wedges)
    check_reference(reference, None, volumes)
    matcher = make_matcher(reference, None, voxel_size, config, with_search=True)
    parts = []
    for first in range(0, len(volumes), PARTICLES_AT_ONCE):
        rows = slice(first, first + PARTICLES_AT_ONCE)
        parts.append(score_others_of_some(matcher, volumes[rows], of_particles(wedges, rows), found.take(rows)))
    return np.concatenate(parts)


@torch.inference_mode()
def score_others_of_some(matcher: Matcher, volumes: NDArray[np.float32], wedges: NDArray[np.float32], found: Alignment) -> NDArray[np.float32]:
    """`score_other_poses` of as many particles as fit into memory at once: a search, and refinement of the best few that are not the pose found."""
    assert matcher.turned is not None
    config, device = matcher.config, matcher.shifts.device
    boxes, weights = to_tensor(volumes, device), to_tensor(wedges, device)
    boxes = boxes - boxes.mean(dim=BOX, keepdim=True)
    coarse, fine = (make_particle_terms(boxes, weights, reference.band) for reference in (matcher.coarse, matcher.fine))
    rotations, shifts = (torch.from_numpy(np.asarray(part, np.float64)).to(device) for part in (found.rotations, found.shifts))
    scores, shift_numbers = search(coarse, matcher.turned, matcher.shifts)
    scores[near_alike(matcher, rotations)] = NO_OTHER
    owners, starts, others = climb(matcher, coarse, scores, shift_numbers)
    poses = Poses(rotations, shifts, torch.zeros(len(boxes), device=device))

    def unless_found(scores: Tensor, others: Poses, owners: Tensor) -> Tensor:
        return scores.masked_fill(similarity(matcher.fine, others, poses[owners]) >= ALIKE, NO_OTHER)

    promise = unless_found(score(fine[owners], matcher.fine, others.rotations, others.shifts), others, owners)
    promise = promise.masked_fill(starts.scores <= NO_OTHER, NO_OTHER)
    kept = best_of_each(promise.reshape(len(boxes), -1), FINALISTS)
    owners = owners[kept]
    others = refine(fine[owners], matcher.fine, others[kept], FINE_STEPS, config.step / 2, config.max_shift)
    best = unless_found(others.scores, others, owners).masked_fill(promise[kept] <= NO_OTHER, NO_OTHER).reshape(len(boxes), -1).amax(dim=1)
    return np.asarray(best.float().cpu().numpy())


def near_alike(matcher: Matcher, rotations: Tensor) -> Tensor:
    """Which rotations of the search lie near one in which the reference looks as it does in the given ones, (b, r)."""
    assert matcher.turned is not None
    band, turned, distance = matcher.coarse.band, matcher.turned, APART * matcher.config.step
    terms = turn(matcher.coarse.spectra[:2], band, rotations)[:, 0]
    products = torch.view_as_real(terms * band.twins).flatten(1) @ turned.parts
    norms = (terms.abs().square() @ band.twins)[:, None] * (band.twins @ turned.power)
    alike = products >= ALIKE * norms.sqrt()
    some, grid = alike.any(dim=0).nonzero()[:, 0], turned.rotations.float()  # few, but of what is nearly round
    neighbours = lie_within(distance, grid[some], grid)
    # the pose itself lies between the rotations of the grid
    return lie_within(distance, rotations.float(), grid) | (alike[:, some].float() @ neighbours.float() > 0)


def similarity(reference: Reference, a: Poses, b: Poses) -> Tensor:
    """Correlation (n,) of a reference in one pose and in another."""
    one, other = (turn(reference.spectra[:2], reference.band, poses.rotations)[:, 0] * reference.band.twins.sqrt() for poses in (a, b))
    moved = other * shift_phases(reference.band, b.shifts - a.shifts)
    norms: Tensor = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    return inner(one, moved) / norms.clamp_min(1e-30)


def pose_probabilities(scores: NDArray[np.float32], others: NDArray[np.float32], measured: NDArray[np.float64]) -> NDArray[np.float32]:
    """How probable it is that a pose is right rather than the best of those in which the structure lies otherwise, (n,), by their likelihoods.

    Parameters
    ----------
    scores : (n,), correlations of structure and particle; others : (n,), in the best other pose, as `score_other_poses` gives them
    measured : (n,) or (1,), how many numbers were compared
    """
    likelihoods = log_likelihoods(np.stack([scores, others], axis=1).astype(np.float64), INDEPENDENT * measured)
    return expit(likelihoods[:, 0] - likelihoods[:, 1]).astype(np.float32)  # type: ignore[no-any-return]
