"""Subtomograms onto a reference: rotations and shifts, averages, and a reference made from nothing but the particles.

Bright particles on both sides: invert dark ones first. A pose is that of `triptych simulate`: the particle is the reference, turned by
`rotations` about the centre of the box (index n // 2) and then moved by `shifts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from triptych.alignment.matching import (
    BOX,
    OVERSAMPLING,
    Band,
    ParticleTerms,
    Poses,
    Reference,
    TurnedReferences,
    choose_candidates,
    fine_fields,
    make_band,
    make_particle_terms,
    make_reference,
    pick,
    refine,
    score,
    search,
    spectra_of,
    transform,
    turn_all,
    zero_outside,
)
from triptych.alignment.rotations import angles_between, rotation_grid
from triptych.config import AlignConfig
from triptych.device import choose_device
from triptych.errors import InputError
from triptych.fourier import low_pass
from triptych.parallel import Progress
from triptych.posing import pose_many
from triptych.volume import Volume

FloatArray = NDArray[np.float64]

PARTICLES_AT_ONCE = 32
SHIFTS_PER_DETAIL = 2.5
"""Places that the search tries along the length of the finest detail that it compares."""
COARSE_STEPS, FINE_STEPS = 5, 10
"""Steps of refinement at the coarse and at the fine resolution, at most."""
APART = 1.5
"""Steps of the search: poses that lie nearer are one."""
FINALISTS = 2
"""Candidates that are refined at the fine resolution."""
LEAST_WEIGHT = 0.05
"""A term is divided by no less than this share of the mean weight, so that what few particles measured is not blown up."""
LEAST_SUM = 1e-6
"""Weights below count as this: what no particle measured is 0."""
TRIAL_PARTICLES, TRIAL_ROUNDS, TRIAL_STEP, TRIAL_CANDIDATES = 24, 2, 20.0, 3
"""By how many particles, rounds, degrees between rotations and candidates the starts of a consensus are compared."""
STABLE = 1.0
"""Degrees of the median change of rotation, between rounds, below which a consensus stands."""
CONTOUR = 0.25
"""Share of the greatest density above which it counts for the centre of mass."""


class Alignment(NamedTuple):
    """Poses of n particles.

    Attributes
    ----------
    rotations : float64 (n, 3, 3), matrix reference -> particle on (x, y, z)
    shifts : float64 (n, 3), x, y, z in Å of the particle's centre from the box's centre (index n // 2)
    scores : float32 (n,), correlation with the reference over the measured frequencies, within the mask
    """

    rotations: FloatArray
    shifts: FloatArray
    scores: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64] | slice) -> Alignment:
        """The poses of the given rows, in that order."""
        return Alignment._make(values[rows] for values in self)


def align(
    volumes: NDArray[np.float32],
    reference: NDArray[np.float32],
    voxel_size: float,
    config: AlignConfig | None = None,
    *,
    wedges: NDArray[np.float32] | None = None,
    mask: NDArray[np.float32] | None = None,
    start: Alignment | None = None,
    on_progress: Progress | None = None,
) -> Alignment:
    """Find rotation and shift of each volume against a reference: a search over all rotations, then refinement to below a degree.

    Parameters
    ----------
    volumes : (n, d, d, d), recovered densities or subtomograms, particles bright
    reference : (d, d, d), bright, centred
    voxel_size : Å, of both
    wedges : (n, d, d, d // 2 + 1) or (1, ...), by what each term of `rfftn` of a volume came out multiplied: 0 where it was not measured, such as
        `fourier.wedge_weights` gives it, else 1 or, where it is known, the CTF, with its sign; default: 1
    mask : (d, d, d), 0..1, of the reference: what lies outside is not compared; default: the whole box
    start : poses to refine only, without the search
    on_progress : called with (particles done, particles in all)

    Raises
    ------
    InputError
        If shapes do not fit, or the reference is constant.
    """
    config = config or AlignConfig()
    wedges = check_volumes(volumes, wedges)
    check_reference(reference, mask, volumes)
    matcher = make_matcher(reference, mask, voxel_size, config, with_search=start is None)
    if on_progress:
        on_progress(0, len(volumes))
    parts = []
    for first in range(0, len(volumes), PARTICLES_AT_ONCE):
        rows = slice(first, first + PARTICLES_AT_ONCE)
        known = None if start is None else start.take(rows)
        parts.append(align_some(matcher, volumes[rows], of_particles(wedges, rows), known))
        if on_progress:
            on_progress(min(rows.stop, len(volumes)), len(volumes))
    return join_poses(parts)


def join_poses(parts: Sequence[Alignment]) -> Alignment:
    """The poses of several lists of particles as one."""
    return Alignment._make(np.concatenate(values) for values in zip(*parts, strict=True))


def check_volumes(volumes: NDArray[np.float32], wedges: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The wedges, all ones where there are none; InputError where shapes do not fit."""
    if volumes.ndim != 4 or not len(volumes) or len(set(volumes.shape[1:])) != 1:
        raise InputError(f"volumes to align have shape {volumes.shape}, but cubes were expected: (n, d, d, d), n at least 1")
    d = volumes.shape[-1]
    shape = (d, d, d // 2 + 1)
    if wedges is None:
        return np.ones((1, *shape), np.float32)
    if wedges.shape not in ((len(volumes), *shape), (1, *shape)):
        raise InputError(f"wedges have shape {wedges.shape}, but {(len(volumes), *shape)} belongs to these volumes, or one wedge for all")
    return wedges


def of_particles(wedges: NDArray[np.float32], rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
    """The wedges of some particles, where they may all have the same."""
    return wedges if len(wedges) == 1 else wedges[rows]


def check_reference(reference: NDArray[np.float32], mask: NDArray[np.float32] | None, volumes: NDArray[np.float32]) -> None:
    for name, data in (("reference", reference), ("mask", mask)):
        if data is not None and data.shape != volumes.shape[1:]:
            raise InputError(f"the {name} has shape {data.shape}, but the volumes {volumes.shape[1:]}: bring both to the same box")
    if not np.ptp(reference if mask is None else reference * mask) > 0:
        raise InputError("all values of the reference are the same, so nothing can be aligned to it: give another one")


class Matcher(NamedTuple):
    """A reference made ready for any number of particles.

    Attributes
    ----------
    fine, coarse : at the two resolutions; turned : `coarse` in all rotations of the search, None where there is none
    mask : (1, d, d, d), None for the whole box
    """

    config: AlignConfig
    voxel_size: float
    fine: Reference
    coarse: Reference
    turned: TurnedReferences | None
    shifts: Tensor
    mask: Tensor | None


@torch.inference_mode()
def make_matcher(
    reference: NDArray[np.float32], mask: NDArray[np.float32] | None, voxel_size: float, config: AlignConfig, with_search: bool
) -> Matcher:
    device = choose_device(config.device)
    density = to_tensor(reference, device)
    masked = density if mask is None else density * to_tensor(mask, device)
    d = len(reference)
    fine = make_reference(masked, make_band(d, voxel_size, config.resolution, device))
    coarse = make_reference(masked, make_band(d, voxel_size, max(config.resolution, config.coarse_resolution), device))
    turned = None
    if with_search:
        turned = turn_all(coarse, torch.from_numpy(rotation_grid(config.step)).to(device))
    shifts = shift_grid(config.coarse_resolution / SHIFTS_PER_DETAIL, config.max_shift, device)
    return Matcher(config, voxel_size, fine, coarse, turned, shifts, None if mask is None else to_tensor(mask, device)[None])


def to_tensor(data: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)).to(device)


def shift_grid(step: float, longest: float, device: torch.device) -> Tensor:
    """Shifts (s, 3) on a cubic grid, none longer than `longest`; Å."""
    reach = math.floor(longest / step)
    axis = torch.arange(-reach, reach + 1, device=device) * step
    shifts = torch.cartesian_prod(axis, axis, axis)
    return shifts[shifts.norm(dim=1) <= longest]


@torch.inference_mode()
def align_some(matcher: Matcher, volumes: NDArray[np.float32], wedges: NDArray[np.float32], start: Alignment | None) -> Alignment:
    """Align as many particles as fit into memory at once."""
    config, device = matcher.config, matcher.shifts.device
    boxes, weights = to_tensor(volumes, device), to_tensor(wedges, device)
    boxes = boxes - boxes.mean(dim=BOX, keepdim=True)
    fine = make_particle_terms(boxes, weights, matcher.fine.band)
    if start is None:
        poses = find_poses(matcher, make_particle_terms(boxes, weights, matcher.coarse.band), fine)
    else:
        rotations, shifts = (torch.from_numpy(np.asarray(part, np.float64)).to(device) for part in (start.rotations, start.shifts))
        poses = Poses(rotations, shifts, torch.zeros(len(boxes), device=device))
        poses = refine(fine, matcher.fine, poses, FINE_STEPS, config.step / 2, config.max_shift)
    scores = poses.scores
    if matcher.mask is not None:
        scores = score(mask_particles(boxes, weights, matcher, poses), matcher.fine, poses.rotations, poses.shifts)
    return Alignment(poses.rotations.cpu().numpy(), poses.shifts.cpu().numpy(), scores.float().cpu().numpy())


def find_poses(matcher: Matcher, coarse: ParticleTerms, fine: ParticleTerms) -> Poses:
    """Search all rotations, then refine the best few: at the coarse resolution all, at the fine one the finalists."""
    assert matcher.turned is not None
    config = matcher.config
    scores, shift_numbers = search(coarse, matcher.turned, matcher.shifts)
    owners, _, poses = climb(matcher, coarse, scores, shift_numbers)
    kept = best_of_each(score(fine[owners], matcher.fine, poses.rotations, poses.shifts).reshape(len(scores), -1), FINALISTS)
    poses = refine(fine[owners[kept]], matcher.fine, poses[kept], FINE_STEPS, config.step / 2, config.max_shift)
    return poses[best_of_each(poses.scores.reshape(len(scores), -1), 1)]


def best_of_each(scores: Tensor, count: int) -> Tensor:
    """Of the candidates (b, c) of b particles the numbers of the best few of each, counted through all of them side by side."""
    first = torch.arange(len(scores), device=scores.device)[:, None] * scores.shape[1]
    return (first + scores.topk(min(count, scores.shape[1]), dim=1).indices).flatten()


def climb(matcher: Matcher, coarse: ParticleTerms, scores: Tensor, shift_numbers: Tensor) -> tuple[Tensor, Poses, Poses]:
    """The candidates of a search, none a neighbour of another, those of a particle side by side.

    Parameters
    ----------
    scores, shift_numbers : (b, r), as `search` gives them

    Returns
    -------
    owners : (b candidates,), number of the particle of each; then their poses in the search, and these refined at the coarse resolution
    """
    assert matcher.turned is not None
    config, grid = matcher.config, matcher.turned.rotations
    chosen = choose_candidates(scores, grid, config.candidates, APART * config.step).flatten()
    owners = torch.arange(len(scores), device=grid.device).repeat_interleave(config.candidates)
    starts = Poses(grid[chosen], matcher.shifts[shift_numbers[owners, chosen]].double(), scores[owners, chosen])
    return owners, starts, refine(coarse[owners], matcher.coarse, starts, COARSE_STEPS, config.step / 2, config.max_shift)


def mask_particles(boxes: Tensor, weights: Tensor, matcher: Matcher, poses: Poses) -> ParticleTerms:
    """Particles within the mask of the reference, put where each one's pose says."""
    assert matcher.mask is not None
    masks = pose_many(matcher.mask, 1, poses.rotations, poses.shifts.float() / matcher.voxel_size, boxes.shape[-1])[:, 0]
    return make_particle_terms(boxes * masks, weights, matcher.fine.band)


# ---------------------------------------------------------------------------------------------------------------- averages


@torch.inference_mode()
def average(
    volumes: NDArray[np.float32],
    alignment: Alignment,
    voxel_size: float,
    wedges: NDArray[np.float32] | None = None,
    config: AlignConfig | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of the particles in the frame of the reference, each Fourier term over the particles that measured it.

    With CTFs among the `wedges` (see `align`) it is sum(w F) / sum(w^2), the least-squares solution, which undoes them; but for the coarsest
    detail, of which the CTF leaves so little that mostly neighbours and noise would be brought back.

    Returns
    -------
    density : (d, d, d), up to the Nyquist frequency; 0 on average outside the ball that the box holds
    weight : (d, d, d // 2 + 1), how many particles measured each term of `rfftn`, those with a CTF counting its square
    """
    wedges = check_volumes(volumes, wedges)
    device = choose_device((config or AlignConfig()).device)
    band = make_band(volumes.shape[-1], voxel_size, 2 * voxel_size, device)
    total = torch.zeros(len(band.terms), dtype=torch.complex64, device=device)
    weight = torch.zeros(len(band.terms), device=device)
    for i, volume in enumerate(volumes):
        rotation = torch.from_numpy(alignment.rotations[i]).to(device)
        wedge = to_tensor(wedges[i % len(wedges)], device)
        total += turn_back(to_tensor(volume, device), wedge, band, rotation, torch.from_numpy(alignment.shifts[i]).to(device))
        weight += turn_weights(wedge.square(), band, rotation)
    mean = total / weight.clamp_min(max(LEAST_WEIGHT * float(weight.mean()), LEAST_SUM))
    return to_density(mean, band, volumes.shape[-1]), spectra_of(weight, band, volumes.shape[-1]).cpu().numpy()


def merge_averages(parts: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> NDArray[np.float32]:
    """The mean of averages (d, d, d) of different particles, each Fourier term by how many of them measured it, as `average` gives both.

    It is 0 on average outside the ball that the box holds, as they are. The parts are taken one by one, so that there may be any number of them.
    """
    rest = iter(parts)
    density, weight = next(rest)
    shape, sums = density.shape, np.fft.rfftn(density) * weight
    for density, own in rest:
        sums, weight = sums + np.fft.rfftn(density) * own, weight + own
    merged = np.fft.irfftn(sums / np.maximum(weight, LEAST_SUM), s=shape, axes=(0, 1, 2)).astype(np.float32)
    return zero_outside(torch.from_numpy(merged)).numpy()  # what the mean of a box is no weight tells


def turn_back(volume: Tensor, wedge: Tensor, band: Band, rotation: Tensor, shift: Tensor) -> Tensor:
    """Terms (m,) of a volume, weighted by its wedge, brought from its pose back to the reference's."""
    field = zero_outside(fine_fields(transform(volume, band) * pick(wedge, band), band))
    offset = -(rotation.T @ shift) * (band.size / band.box_width)
    return transform(pose_many(field[None], OVERSAMPLING, rotation.T[None], offset[None].float(), band.size)[0, 0], band)


def turn_weights(wedge: Tensor, band: Band, rotation: Tensor) -> Tensor:
    """Weights (m,) of the terms of the reference: those that a particle's wedge has in the directions to which its pose turns them."""
    d = len(wedge)
    # of the whole grid, zero frequency at d // 2; the transforms there and back fill in the half that rfftn leaves out
    whole = torch.fft.fftshift(torch.fft.fftn(torch.fft.irfftn(wedge, s=(d,) * 3)).real)
    places = band.terms.flip(1).float() @ rotation.T.float() + d // 2
    unit = places * (2 / (d - 1)) - 1
    return F.grid_sample(whole[None, None], unit[None, None, None], align_corners=True)[0, 0, 0, 0]


def to_density(values: Tensor, band: Band, size: int) -> NDArray[np.float32]:
    """The density (size, size, size) whose `transform` gives these terms; outside the ball that the box holds its mean is 0."""
    density = zero_outside(torch.fft.fftshift(torch.fft.irfftn(spectra_of(values, band, size), s=(size,) * 3)))
    return np.asarray(density.cpu().numpy(), np.float32)


def split_halves(
    count: int, rng: np.random.Generator, distinct: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of two random halves of `count` particles, in ascending order: aligned apart from the start, their averages give an honest FSC.

    distinct : (count,), the same number for those that show the same particle, which come into one half, unless there is only one
    """
    numbers = np.arange(count) if distinct is None else np.unique(distinct, return_inverse=True)[1]
    if numbers.max(initial=0) == 0:
        numbers = np.arange(count)
    order = rng.permutation(int(numbers.max(initial=-1)) + 1)
    first = np.isin(numbers, order[: len(order) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def turn_onto(first: NDArray[np.float32], second: NDArray[np.float32], voxel_size: float, config: AlignConfig) -> Alignment:
    """The pose of one half's reference (d, d, d) that is the other's, by detail down to `config.coarse_resolution` only.

    Where they agree best, what is compared agrees a little even in noise. So finer detail has no say, and agrees by itself alone.
    """
    limit = max(config.resolution, config.coarse_resolution)
    return align(second[None], first, voxel_size, config.model_copy(update={"resolution": limit}))


# --------------------------------------------------------------------------------------------------------------- consensus


def consensus(
    volumes: NDArray[np.float32],
    voxel_size: float,
    rng: np.random.Generator,
    config: AlignConfig | None = None,
    *,
    wedges: NDArray[np.float32] | None = None,
    on_progress: Progress | None = None,
) -> tuple[NDArray[np.float32], Alignment]:
    """An average of particles of one kind without a reference, and their poses in its (arbitrary) frame.

    Several particles are tried as the first reference, each with some rounds of aligning and averaging a share of the others at the coarse
    resolution; that on which they agree best goes on with all of them until the poses stand still. Of very many, a random part (`agreeing`) finds
    out what they have in common, and all are aligned to that.

    Parameters
    ----------
    volumes, voxel_size, wedges : as for `align`
    on_progress : called with (rounds done, rounds at most)
    """
    config = config or AlignConfig()
    wedges = check_volumes(volumes, wedges)
    order = rng.permutation(len(volumes))
    starts, some = order[: config.starts], order[: max(TRIAL_PARTICLES, config.starts)]
    total = len(starts) * TRIAL_ROUNDS + max(config.rounds, 2)
    rounds_done = 0

    def count_round() -> None:
        nonlocal rounds_done
        rounds_done += 1
        if on_progress:
            on_progress(rounds_done, total)

    quick = {"resolution": config.coarse_resolution, "step": max(config.step, TRIAL_STEP), "candidates": min(config.candidates, TRIAL_CANDIDATES)}
    coarse = config.model_copy(update=quick)
    first = [centre(volumes[i], voxel_size, config) for i in starts]
    trials = [agree(volumes[some], of_particles(wedges, some), reference, voxel_size, coarse, TRIAL_ROUNDS, count_round) for reference in first]
    best = max(trials, key=lambda trial: float(trial[1].scores.mean()))
    many = np.sort(order[: config.agreeing])
    if len(many) == len(volumes):
        density, alignment = agree(volumes, wedges, best[0], voxel_size, config, config.rounds, count_round)
    else:
        density, _ = agree(volumes[many], of_particles(wedges, many), best[0], voxel_size, config, config.rounds, count_round)
        density, alignment = average_centred(volumes, align(volumes, density, voxel_size, config, wedges=wedges), voxel_size, wedges, config)
    if on_progress:
        on_progress(total, total)
    return density, alignment


def agree(
    volumes: NDArray[np.float32],
    wedges: NDArray[np.float32],
    reference: NDArray[np.float32],
    voxel_size: float,
    config: AlignConfig,
    rounds: int,
    on_round: Callable[[], None],
) -> tuple[NDArray[np.float32], Alignment]:
    """Align and average by turns: a search of all rotations, refinement until the poses stand still, and a search to end with."""

    def average_of(found: Alignment) -> tuple[NDArray[np.float32], Alignment]:
        on_round()
        return average_centred(volumes, found, voxel_size, wedges, config)

    reference, alignment = average_of(align(volumes, reference, voxel_size, config, wedges=wedges))
    for _ in range(rounds - 2):
        before = alignment
        reference, alignment = average_of(align(volumes, reference, voxel_size, config, wedges=wedges, start=before))
        if np.median(angles_between(before.rotations, alignment.rotations)) < STABLE:
            break
    return average_of(align(volumes, reference, voxel_size, config, wedges=wedges))


def average_centred(
    volumes: NDArray[np.float32], alignment: Alignment, voxel_size: float, wedges: NDArray[np.float32], config: AlignConfig
) -> tuple[NDArray[np.float32], Alignment]:
    """An average whose centre of mass is the centre of the box, and the poses that lead to it."""
    density, _ = average(volumes, alignment, voxel_size, wedges, config)
    offset = centre_of_mass(density, voxel_size, config)
    centred = alignment._replace(shifts=alignment.shifts + alignment.rotations @ offset)
    return average(volumes, centred, voxel_size, wedges, config)[0], centred


def centre(density: NDArray[np.float32], voxel_size: float, config: AlignConfig) -> NDArray[np.float32]:
    """A density whose centre of mass is the centre of the box."""
    pose = Alignment(np.eye(3)[None], centre_of_mass(density, voxel_size, config)[None], np.ones(1, np.float32))
    return average(density[None], pose, voxel_size, config=config)[0]


def centre_of_mass(density: NDArray[np.float32], voxel_size: float, config: AlignConfig) -> FloatArray:
    """Of what is bright at the coarse resolution: x, y, z in Å from the box's centre, no farther than particles may be."""
    smooth = low_pass(Volume(density, voxel_size), config.coarse_resolution).data
    mass = np.clip(smooth - CONTOUR * smooth.max(), 0, None)
    middle = [n // 2 for n in mass.shape]
    offset = voxel_size * np.subtract(ndimage.center_of_mass(mass) if mass.any() else middle, middle)[::-1]
    return np.asarray(offset * min(1.0, config.max_shift / max(float(np.linalg.norm(offset)), 1e-30)), np.float64)
