"""Scores of poses, on tensors: the Fourier terms of particles against those of a turned reference.

The score of a pose is the constrained cross-correlation (Förster et al. 2005, PNAS 102:4729): the particle, where it was measured, and the
turned reference, multiplied by the particle's wedge and CTF, are normalised over the Fourier terms of the band. Volumes are compared only up to
a resolution, and only the terms up to it are turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.errors import InputError

OVERSAMPLING = 2
"""A volume is interpolated linearly between voxels so many times finer than the band needs."""
PADDING = 2
"""A reference is interpolated linearly between the Fourier terms of a box so many times wider than its own."""
MARGIN = 1.5
"""Terms so many times beyond the band keep the ball's edge, by which a reference is cut, from disturbing the band."""
ROTATIONS_AT_ONCE = 128
DAMPING = (1e-2, 0.25, 8.0)
"""Levenberg and Marquardt's: at the start, factor after a step that helped, factor after one that did not."""
LEAST_AMPLITUDE = 0.02
"""Least correlation that a step is computed for: below it the linear model promises too much."""
STILL = (0.2, 0.4)
"""Degrees and Å of a step below which a pose stands still: what the next one would bring is a small part of that."""
BOX = (-3, -2, -1)


@dataclass(frozen=True, eq=False)
class Band:
    """The Fourier terms of a cubic box up to a resolution, one of each pair k, -k, without the mean.

    Attributes
    ----------
    terms : int64 (m, 3), kz, ky, kx in Fourier voxels, kx >= 0
    vectors : (m, 3), kx, ky, kz in 1/Å
    twins : (m,), 2 where -k is left out, 1 where it is there
    size : even number of voxels along a cube that holds these terms
    box_width : Å
    """

    terms: Tensor
    vectors: Tensor
    twins: Tensor
    size: int
    box_width: float


def make_band(box_size: int, voxel_size: float, resolution: float, device: torch.device) -> Band:
    """The terms of a box of `box_size` voxels down to `resolution` Å, or to just above two voxels where that is coarser."""
    width = box_size * voxel_size
    limit = min(width / resolution, box_size / 2 - 1)
    reach = math.floor(limit)
    if reach < 1:
        how = "set a finer align.resolution and align.coarse_resolution"
        raise InputError(f"boxes {width:g} Å wide hold nothing to compare down to {resolution:g} Å: {how}")
    k = torch.arange(-reach, reach + 1, device=device)
    terms = torch.cartesian_prod(k, k, k[reach:])
    length = terms.double().norm(dim=1)
    terms = terms[(length > 0) & (length <= limit)]
    twins = torch.where(terms[:, 2] > 0, 2.0, 1.0)
    return Band(terms, terms.flip(1).float() / width, twins, 2 * reach + 4, width)


def transform(volumes: Tensor, band: Band) -> Tensor:
    """Fourier terms (..., m) of cubes (..., d, d, d) whose origin is index d // 2; sums, as torch's FFT gives them."""
    size = volumes.shape[-1]
    # The origin of the FFT is index 0: moved to the middle by the phases, which are fewer than the voxels.
    angle = 2 * math.pi * (size // 2) / size * band.terms.sum(dim=1)
    return pick(torch.fft.rfftn(volumes, dim=BOX), band) * torch.polar(torch.ones_like(angle), angle)


def pick(spectrum: Tensor, band: Band) -> Tensor:
    """The band's terms (..., m) of the `rfftn` (..., d, d, d // 2 + 1) of a box of any size."""
    depth, height, width = spectrum.shape[-3:]
    kz, ky, kx = band.terms.unbind(1)
    flat = ((kz % depth) * height + ky % height) * width + kx
    return spectrum.flatten(-3)[..., flat]


def spectra_of(values: Tensor, band: Band, size: int) -> Tensor:
    """The band's terms (..., m) in the `rfftn` (..., size, size, size // 2 + 1) of a box, 0 elsewhere; `pick` undoes it."""
    kz, ky, kx = band.terms.unbind(1)
    spectra = torch.zeros((*values.shape[:-1], size, size, size // 2 + 1), dtype=values.dtype, device=values.device)
    spectra[..., kz % size, ky % size, kx] = values
    return spectra


def fields_of(values: Tensor, band: Band, oversampling: int = 1) -> Tensor:
    """Fields (..., f, f, f) of the band's terms (..., m), f = oversampling `Band.size`, whose origin is index f // 2; `transform` undoes it."""
    size = band.size * oversampling
    fields: Tensor = torch.fft.fftshift(torch.fft.irfftn(spectra_of(values, band, size), s=(size,) * 3, dim=BOX), dim=BOX)
    return fields


def fine_fields(values: Tensor, band: Band) -> Tensor:
    """Fields of the band's terms, fine enough for linear interpolation and sharpened against its damping.

    Sampled on a grid of `Band.size` and given to `transform`, they give the terms again, whatever the size of the box that these came from.
    """
    # Linear interpolation multiplies by sinc^2 along each axis.
    damping = torch.special.sinc(band.terms.float() / (band.size * OVERSAMPLING)).square().prod(dim=1)
    return fields_of(values / damping * OVERSAMPLING**3, band, OVERSAMPLING)


def squared_radii(size: int, device: torch.device) -> Tensor:
    """Squared distance (size, size, size) of voxels from the origin, index size // 2."""
    axis = (torch.arange(size, device=device) - size // 2) ** 2
    return axis[:, None, None] + axis[:, None] + axis


def zero_outside(fields: Tensor) -> Tensor:
    """Fields (..., f, f, f) less their mean outside the ball that the box holds: what is turned into the box from beyond it is 0 as well."""
    size = fields.shape[-1]
    outside = squared_radii(size, fields.device) > (size // 2) ** 2
    return fields - fields[..., outside].mean(dim=-1)[..., None, None, None]


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference that can be turned: what of it lies in the ball that its box holds.

    Attributes
    ----------
    spectra : (8, f, f, f), real and imaginary parts by turns of the Fourier terms of the density and of the vector field r x grad(density), r in
        Å: how it changes as it is turned about x, y and z. PADDING times closer than `Band.terms`, zero frequency at f // 2
    """

    band: Band
    spectra: Tensor


def make_reference(density: Tensor, band: Band) -> Reference:
    """Prepare a density (d, d, d) for being turned."""
    d, reach = len(density), int(band.terms[:, 2].max())
    wider = make_band(d, band.box_width / d, band.box_width / (MARGIN * reach), density.device)
    values = transform(density, wider)
    slopes = 2j * math.pi * wider.vectors.T * values
    fields = fields_of(torch.cat([values[None], slopes]), wider)
    axis = (torch.arange(wider.size, device=density.device) - wider.size // 2) * (band.box_width / wider.size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    turning = torch.linalg.cross(torch.stack([x, y, z]), fields[1:], dim=0)
    return Reference(band, padded_spectra(torch.cat([zero_outside(fields[:1]), turning]), reach))


def padded_spectra(fields: Tensor, reach: int) -> Tensor:
    """Fourier terms (2 c, f, f, f) of fields (c, n, n, n) within their ball, laid into a wider box; as far as the terms up to `reach` need them."""
    size = fields.shape[-1]
    wide, low = PADDING * size, (PADDING - 1) * size // 2
    # Linear interpolation of Fourier terms multiplies the field by sinc^2 along each axis.
    damping = torch.special.sinc((torch.arange(size, device=fields.device) - size // 2) / wide).square()
    inside = squared_radii(size, fields.device) <= (size // 2) ** 2
    padded = torch.zeros((len(fields), wide, wide, wide), device=fields.device)
    padded[:, low : low + size, low : low + size, low : low + size] = fields * inside / (damping[:, None, None] * damping[:, None] * damping)
    terms = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded, dim=BOX), dim=BOX), dim=BOX)
    near = slice(wide // 2 - PADDING * reach - 1, wide // 2 + PADDING * reach + 2)
    parts: Tensor = torch.view_as_real(terms[:, near, near, near]).movedim(-1, 1).flatten(0, 1).contiguous()
    return parts


def turn(spectra: Tensor, band: Band, rotations: Tensor) -> Tensor:
    """Terms (b, c, m) of a reference's spectra (2 c, f, f, f) after rotations (b, 3, 3)."""
    # The turned density has the term at k that the density has at R^T k. grid_sample wants x, y, z, -1 and 1 at the outermost terms.
    places = (band.terms.flip(1).float() @ rotations.float()) * (PADDING / (spectra.shape[-1] // 2))
    copies = spectra.expand(len(rotations), -1, -1, -1, -1)
    parts = F.grid_sample(copies, places[:, None, None], mode="bilinear", padding_mode="zeros", align_corners=True)[:, :, 0, 0]
    return torch.complex(parts[:, ::2], parts[:, 1::2])


def shift_phases(band: Band, shifts: Tensor) -> Tensor:
    """Factors (..., m) of the terms that move a volume by shifts (..., 3), x, y, z in Å."""
    angle = -2 * math.pi * (shifts.float() @ band.vectors.T)
    return torch.polar(torch.ones_like(angle), angle)


@dataclass(frozen=True, eq=False)
class ParticleTerms:
    """The Fourier terms of b particles, in the band that is compared.

    Attributes
    ----------
    values : complex (b, m), terms times the root of `Band.twins`, of norm 1, 0 where nothing was measured
    weights : (b, m) or (1, m), by which a reference's terms are multiplied: wedge and CTF, and the root of `Band.twins`
    """

    band: Band
    values: Tensor
    weights: Tensor

    def __getitem__(self, rows: Tensor | slice) -> ParticleTerms:
        weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        return ParticleTerms(self.band, self.values[rows], weights)


def make_particle_terms(volumes: Tensor, wedges: Tensor, band: Band) -> ParticleTerms:
    """The terms of volumes (b, d, d, d) and their wedges (b, d, d, d // 2 + 1), or one wedge for all."""
    weights = pick(wedges, band) * band.twins.sqrt()
    values = transform(volumes, band) * (weights != 0) * band.twins.sqrt()
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return ParticleTerms(band, values / norm.clamp_min(1e-30), weights)


# ------------------------------------------------------------------------------------------------------------------ search


@dataclass(frozen=True, eq=False)
class TurnedReferences:
    """Terms of a reference in many rotations, real and imaginary parts side by side (2 m, rotations), and their squared moduli (m, rotations)."""

    rotations: Tensor
    parts: Tensor
    power: Tensor


def turn_all(reference: Reference, rotations: Tensor) -> TurnedReferences:
    """A reference in every rotation (r, 3, 3) of a grid."""
    terms = torch.cat([turn(reference.spectra[:2], reference.band, some)[:, 0] for some in torch.split(rotations, ROTATIONS_AT_ONCE)])
    return TurnedReferences(rotations, torch.view_as_real(terms).flatten(1).T.contiguous(), terms.abs().square().T.contiguous())


def search(particles: ParticleTerms, references: TurnedReferences, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Best score over some shifts (s, 3) of each particle in each rotation, and the number of that shift, both (b, r).

    All shifts and rotations are one matrix product, which beats a Fourier transform per rotation where the shifts are few.
    """
    back = shift_phases(particles.band, -shifts)
    moved = (particles.values * particles.weights)[:, None] * back
    rows = torch.view_as_real(moved).flatten(2).flatten(0, 1)
    norms = (particles.weights.square() @ references.power).sqrt().clamp_min(1e-30)
    scores, numbers = [], []
    for parts in torch.split(references.parts, ROTATIONS_AT_ONCE, dim=1):
        best = (rows @ parts).reshape(len(particles.values), len(shifts), -1).max(dim=1)
        scores.append(best.values)
        numbers.append(best.indices)
    return torch.cat(scores, dim=1) / norms, torch.cat(numbers, dim=1)


def lie_within(distance: float, a: Tensor, b: Tensor) -> Tensor:
    """Which of the rotations b (m, 3, 3) lie within `distance` degrees of each of a (n, 3, 3), (n, m)."""
    return a.flatten(1) @ b.flatten(1).T >= 1 + 2 * math.cos(math.radians(distance))


def choose_candidates(scores: Tensor, rotations: Tensor, count: int, distance: float) -> Tensor:
    """Numbers (b, count) of the best rotations of each particle, none within `distance` degrees of a better one."""
    scores = scores.clone()
    chosen = []
    for _ in range(count):
        best = scores.argmax(dim=1)
        chosen.append(best)
        scores[lie_within(distance, rotations[best], rotations)] = -torch.inf
    return torch.stack(chosen, dim=1)


# -------------------------------------------------------------------------------------------------------------- refinement


@dataclass(frozen=True, eq=False)
class Poses:
    """Poses of b particles with their scores: rotations (b, 3, 3) float64, shifts (b, 3) Å float64, scores (b,)."""

    rotations: Tensor
    shifts: Tensor
    scores: Tensor

    def __getitem__(self, rows: Tensor) -> Poses:
        return Poses(self.rotations[rows], self.shifts[rows], self.scores[rows])


def rotation_matrices(vectors: Tensor) -> Tensor:
    """Matrices (b, 3, 3) of rotation vectors (b, 3) in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    generators = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*vectors.shape[:-1], 3, 3)
    matrices: Tensor = torch.linalg.matrix_exp(generators)
    return matrices


def score(particles: ParticleTerms, reference: Reference, rotations: Tensor, shifts: Tensor) -> Tensor:
    """Score (b,) of one pose of each particle."""
    terms = turn(reference.spectra[:2], reference.band, rotations)[:, 0] * shift_phases(reference.band, shifts) * particles.weights
    norms: Tensor = torch.linalg.vector_norm(terms, dim=-1)
    return inner(particles.values, terms) / norms.clamp_min(1e-30)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product over the last axis."""
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum(dim=(-2, -1))


def linearise(particles: ParticleTerms, reference: Reference, rotations: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score (b,), and curvature (b, 6, 6) and slope (b, 6) of the fit for a small turn (radians) and shift (Å) of each particle's reference.

    The fit is that of the scaled reference to the particle, least squares, with the scale projected out (Golub & Pereyra 1973): the pose of
    the best fit is that of the highest correlation. The step to it is curvature^-1 slope (Gauss and Newton).
    """
    band = reference.band
    terms = turn(reference.spectra, band, rotations)
    factors = shift_phases(band, shifts) * particles.weights
    model = terms[:, 0] * factors
    # Turned by a small vector a, the volume v changes by -a . (r x grad v); the field is known about the reference's axes.
    by_turn = -(rotations.to(terms.dtype) @ terms[:, 1:]) * factors[:, None]
    by_shift = -2j * math.pi * band.vectors.T * model[:, None]
    changes = torch.view_as_real(torch.cat([by_turn, by_shift], dim=1)).flatten(2)
    model, values = (torch.view_as_real(part).flatten(1) for part in (model, particles.values))
    power = (model * model).sum(1, keepdim=True).clamp_min(1e-30)
    overlap = (model * values).sum(1, keepdim=True)
    along = torch.einsum("bij,bj->bi", changes, model) / power
    changes = changes - along[..., None] * model[:, None]
    scores = (overlap / power.sqrt())[:, 0]
    amplitude = torch.maximum(overlap / power, LEAST_AMPLITUDE / power.sqrt())
    slope = torch.einsum("bij,bj->bi", changes, values) / amplitude
    return scores, changes @ changes.mT, slope


def refine(particles: ParticleTerms, reference: Reference, poses: Poses, steps: int, largest_turn: float, max_shift: float) -> Poses:
    """Climb from each pose to the next maximum of its score: Levenberg and Marquardt's method, all particles side by side.

    Parameters
    ----------
    steps : at most so many
    largest_turn : degrees that one step may turn
    max_shift : Å
    """
    start, better, worse = DAMPING
    rotations, shifts = poses.rotations.clone(), poses.shifts.clone()
    scores, curvature, slope = linearise(particles, reference, rotations, shifts)
    damping = torch.full_like(scores, start)
    moving = torch.arange(len(scores), device=scores.device)
    for _ in range(steps):
        diagonal = curvature[moving].diagonal(dim1=1, dim2=2)
        damped = curvature[moving] + torch.diag_embed(diagonal * damping[moving, None] + 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-30))
        step = torch.linalg.solve(damped.double(), slope[moving].double())
        angle = torch.linalg.vector_norm(step[:, :3], dim=1, keepdim=True)
        step = step * (math.radians(largest_turn) / angle.clamp_min(1e-30)).clamp_max(1)
        turned = rotation_matrices(step[:, :3]) @ rotations[moving]
        moved = torch.renorm(shifts[moving] + step[:, 3:], 2, 0, max_shift)
        trial = linearise(particles[moving], reference, turned, moved)
        gained = trial[0] > scores[moving]
        damping[moving] = damping[moving] * torch.where(gained, better, worse)
        rows = moving[gained]
        rotations[rows], shifts[rows] = turned[gained], moved[gained]
        scores[rows], curvature[rows], slope[rows] = (part[gained] for part in trial)
        still = (torch.rad2deg(step[:, :3].norm(dim=1)) < STILL[0]) & (step[:, 3:].norm(dim=1) < STILL[1])
        moving = moving[~still]
        if not len(moving):
            break
    return Poses(rotations, shifts, scores)
