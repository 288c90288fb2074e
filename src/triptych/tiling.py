"""A tomogram in tiles, and particles from what is found in them: pure functions.

Tiles are planned in the tomogram's own voxels, and each is brought to the model's voxel size around its own centre, so that no
grid of the model's need lie over the whole tomogram. Indices are [z, y, x].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special
from scipy.spatial import cKDTree

from triptych.volume import clip_box

CELL = 2
"""Voxels along each side of the cells in which centres and labels are found."""
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """A part of a tomogram and the model's view of it.

    Attributes
    ----------
    start, stop : the voxels of the tomogram that this tile answers for
    shape : of the model's view, its voxels; the margin lies around the voxels that it answers for
    ratio : model's voxel size over the tomogram's
    """

    start: Triple
    stop: Triple
    shape: Triple
    ratio: float

    @property
    def center(self) -> NDArray[np.int64]:
        """Voxel of the tomogram that is index n // 2 of the view."""
        return np.asarray((np.array(self.start) + np.array(self.stop)) // 2, dtype=np.int64)

    @property
    def reach(self) -> Triple:
        """Shape of the box of the tomogram around `center` that holds the view and two voxels more on each side."""
        z, y, x = (2 * math.ceil(n * self.ratio / 2) + 4 * (self.ratio != 1) for n in self.shape)
        return z, y, x

    def places(self, indices: NDArray[Any]) -> NDArray[np.float64]:
        """Voxels of the tomogram (n, 3) for indices of the view."""
        return np.asarray(self.center + (indices - np.array(self.shape) // 2) * self.ratio, dtype=np.float64)

    def claims(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which places (n, 3) lie among the voxels that the tile answers for, or less than half a cell beside them.

        Of a place on a border either tile may find that it lies in the other one, as their cells lie otherwise: both claim it, lest it be lost.
        """
        slack = CELL / 2 * self.ratio
        return np.asarray(((places >= np.array(self.start) - 0.5 - slack) & (places < np.array(self.stop) - 0.5 + slack)).all(1))

    def indices(self, axis: int) -> NDArray[np.int64]:
        """For each voxel of the tomogram that the tile answers for, the nearest index of the view."""
        own = np.arange(self.start[axis], self.stop[axis])
        nearest = np.round((own - self.center[axis]) / self.ratio).astype(np.int64) + self.shape[axis] // 2
        return np.asarray(np.clip(nearest, 0, self.shape[axis] - 1), dtype=np.int64)


def plan_tiles(shape: Triple, ratio: float, size: int, margin: int) -> list[list[Tile]]:
    """Tiles that together answer for every voxel once, in rows of equal y.

    Parameters
    ----------
    shape : of the tomogram
    ratio : model's voxel size over the tomogram's
    size, margin : most of the model's voxels that a tile answers for along an axis, and voxels around them that it sees too
    """
    axes = [split_axis(n, max(1, math.floor(size * ratio))) for n in shape]
    rows = []
    for y in axes[1]:
        row = []
        for z, x in itertools.product(axes[0], axes[2]):
            spans = (z, y, x)
            views = (8 * math.ceil((math.ceil((stop - start) / ratio) + 2 * margin) / 8) for start, stop in spans)
            row.append(Tile(tuple(s[0] for s in spans), tuple(s[1] for s in spans), tuple(views), ratio))  # type: ignore[arg-type]
        rows.append(row)
    return rows


def split_axis(length: int, most: int) -> list[tuple[int, int]]:
    """Equal ranges of at most so many voxels that cover an axis."""
    edges = np.linspace(0, length, math.ceil(length / most) + 1).round().astype(int)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def find_centres(logits: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Local maxima of a map of cells (d, h, w) whose probability is at least `threshold`.

    Logits are compared, since probabilities near 1 are all the same.

    Returns
    -------
    indices : (n, 3) of the view's voxels, to a fraction: the centre of mass of the maximum and its neighbours
    heights : (n,) probability at the maximum
    """
    probability = special.expit(logits)
    peaks = np.argwhere((probability >= threshold) & (logits == ndimage.maximum_filter(logits, 3, mode="nearest")))
    padded = np.pad(probability, 1)
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    weights = np.stack([padded[tuple((peaks + 1 + step).T)] for step in steps], 1) if len(peaks) else np.empty((0, 27))
    shift = weights @ steps / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return (peaks + shift) * CELL + (CELL - 1) / 2, probability[tuple(peaks.T)]


def label_voxels(foreground: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
    """Label map of a view: the cells' labels (from 0) + 1 where the foreground's probability is at least 1/2, else 0."""
    fine = labels.repeat(CELL, 0).repeat(CELL, 1).repeat(CELL, 2)
    return np.where(foreground >= 0.5, fine + 1, 0).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Cutout:
    """What of a tomogram a mask marks: the least box (nz, ny, nx) around it, whose voxel [0, 0, 0] is voxel `start`, kept as bits."""

    start: NDArray[np.int64]
    shape: Triple
    bits: NDArray[np.uint8]
    count: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_], start: NDArray[np.int64]) -> Cutout:
        """Of the mask of a box that starts at voxel `start`."""
        marked = np.argwhere(mask)
        low, high = (marked.min(0), marked.max(0) + 1) if len(marked) else (np.zeros(3, np.int64),) * 2
        nz, ny, nx = (int(n) for n in high - low)
        part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        return cls(start + low, (nz, ny, nx), np.packbits(part), len(marked))

    @property
    def mask(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.bits, count=math.prod(self.shape)).astype(bool).reshape(self.shape)

    def of_box(self, values: NDArray[Any], start: NDArray[np.int64]) -> NDArray[Any]:
        """The part of a box's values, the box starting at voxel `start`, that lies where this does."""
        return values[tuple(slice(a, a + n) for a, n in zip(self.start - start, self.shape, strict=True))]

    def reach(self, place: NDArray[np.float64]) -> float:
        """How far its farthest corner is from a place, voxels."""
        return float(np.linalg.norm(np.maximum(np.abs(self.start - place), np.abs(self.start + self.shape - 1 - place))))


def overlap(a: Cutout, b: Cutout) -> float:
    """Voxels in both over voxels of the smaller one."""
    inside, own = clip_box(b.start - a.start, b.shape, a.shape)
    if any(side.start == side.stop for side in inside) or not min(a.count, b.count):
        return 0.0
    return float((a.mask[inside] & b.mask[own]).sum() / min(a.count, b.count))


def suppress(
    masks: Sequence[Cutout], scores: NDArray[np.floating[Any]], places: NDArray[np.float64], most: float, nearest: float
) -> NDArray[np.int64]:
    """Particles to keep, best first: whose mask no better one covers by more than `most`, and whose place is not `nearest` to a better one's.

    Parameters
    ----------
    places : (n, 3) voxels; nearest : voxels
    """
    if not len(masks):
        return np.empty(0, dtype=np.int64)
    reach = np.array([mask.reach(place) for mask, place in zip(masks, places, strict=True)])
    tree, farthest = cKDTree(places), max(reach.max(), nearest)
    kept: set[int] = set()
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        better = [j for j in tree.query_ball_point(places[i], reach[i] + farthest) if j in kept]  # one by one: all lists at once take too much memory
        clear = all(np.linalg.norm(places[i] - places[j]) > nearest for j in better)
        if clear and all(overlap(masks[i], masks[j]) <= most for j in better):
            kept.add(int(i))
    return np.array(sorted(kept, key=lambda i: -scores[i]), dtype=np.int64)


def paint(volume: NDArray[Any], mask: NDArray[np.bool_], values: Any, start: NDArray[np.int64]) -> None:
    """Set the voxels of a mask, whose voxel [0, 0, 0] is voxel `start` of the volume; what sticks out is cut off."""
    there, own = clip_box(start, mask.shape, volume.shape)
    part = volume[there]
    part[mask[own]] = values if np.isscalar(values) else values[own][mask[own]]
    volume[there] = part


def widen(mask: Cutout, width: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The voxels that are no more than so many voxels from a mask along any axis, and the voxel of the tomogram at which that array starts."""
    padded = np.pad(mask.mask, width)
    return np.asarray(ndimage.maximum_filter(padded, 2 * width + 1, mode="constant"), dtype=bool), mask.start - width


def clear_labels(labels: NDArray[Any], mask: NDArray[np.bool_], which: NDArray[np.bool_], start: NDArray[np.int64]) -> None:
    """Set labels of some numbers to 0 within a mask, whose voxel [0, 0, 0] is voxel `start` of the label map."""
    there, own = clip_box(start, mask.shape, labels.shape)
    part = labels[there]
    labels[there] = np.where(mask[own] & which[part], 0, part)
