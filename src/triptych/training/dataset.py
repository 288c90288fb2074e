"""From the dataset store to training batches: split, augmentation, order.

Every subtomogram that is drawn has a number, and its augmentation depends on that number and the seed alone. So the batches
are the same for any number of loader processes, and a resumed run goes on exactly where it stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from triptych.config import NONE_CLASS, AugmentConfig
from triptych.errors import InputError
from triptych.fourier import frequency_grid, scramble_phases
from triptych.io.store import Store, known_labels, open_store, unpack
from triptych.recognition.network import HALF_TURNS, turn
from triptych.simulation.physics import draw_log_uniform
from triptych.training.ranks import Share
from triptych.volume import crop_or_pad, standardise

logger = logging.getLogger(__name__)

Draw = tuple[int, int]
"""(row of the store, number of the draw)"""
Array = NDArray[np.float32]
HEAT_WIDTH = 1.0
"""Standard deviation of the heat around a centre, in cells of 2^3 voxels."""

ABOUT_TILT_AXIS = (-3, -1)
"""The half turn about y, which keeps the missing wedge of any tilt range; those about x and z mirror it."""
EVEN = 0.5
"""Degrees by which the ends of a tilt range may differ that counts as the same on both sides."""
LEAST_SHARE = 0.1
"""Of an average class: a class that was hardly shown, or never, counts as so frequent. Its probability is divided by that, and is never quite 0."""


class Batch(NamedTuple):
    """Training examples: subtomogram (b, d, h, w), label (b,), mask and density (b, d, h, w); and tiles, perhaps none.

    Tiles (t, d, h, w), their labels (t, d, h, w) and the heat of their centres (t, d/2, h/2, w/2).
    """

    subtomogram: Tensor
    label: Tensor
    mask: Tensor
    density: Tensor
    tile: Tensor | None = None
    tile_labels: Tensor | None = None
    tile_heat: Tensor | None = None


HELD_OUT, NEITHER = -1, -2
"""Instead of the tomogram's number: boxes of a slab that is held out, and boxes that share voxels with it."""


class Slab(NamedTuple):
    """The end of a tomogram, which is held out instead of a whole one.

    Attributes
    ----------
    tomogram : its number
    axis : that ends there, 0 (x) or 1 (y)
    start : Å, where the slab begins: the least coordinate of the middle of a box that is held out
    width : Å, how near along the axis the middles of boxes lie that may share voxels
    """

    tomogram: int
    axis: int
    start: float
    width: float

    def __str__(self) -> str:
        return f"the end of tomogram {self.tomogram}, from {'xy'[self.axis]} = {self.start:.0f} Å on, and boxes that reach into it are not used"

    def number(self, tomogram: NDArray[np.int64], position: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of the tomograms of boxes, (n,), with HELD_OUT and NEITHER as if they were tomograms, too.

        Parameters
        ----------
        tomogram, position : their numbers, (n,), and x, y, z of the boxes' middles in Å, (n, 3)
        """
        along = np.where(tomogram == self.tomogram, position[:, self.axis], -np.inf)
        return np.where(along >= self.start, HELD_OUT, np.where(along > self.start - self.width, NEITHER, tomogram))


def find_slab(store: Store, share: float, seed: int) -> Slab | None:
    """The end of a tomogram to hold out, with the share of all particles, and of all tiles: where a whole one would be more than twice that.

    None where it would not, where the store does not say where its boxes lie, or where nothing would be left to train on.
    """
    names = np.unique(store["tomogram"][:])
    kinds = ("tomogram", "box_position"), *([("tiles/tomogram", "tiles/position")] if "tiles/labels" in store else [])
    whole_ones_do = len(names) > 1 and 2 * share * len(names) >= 1
    if whole_ones_do or "box_position" not in store:
        return None
    boxes = [(np.asarray(store[number][:]), np.asarray(store[place][:])) for number, place in kinds]
    chosen = draw_order(names, seed)[0]
    own = [position[tomogram == chosen] for tomogram, position in boxes]
    counts = [min(max(1, round(share * len(tomogram))), len(places)) for (tomogram, _), places in zip(boxes, own, strict=True)]
    longer = int(np.ptp(own[0][:, :2], axis=0).argmax())
    for axis in (longer, 1 - longer):
        start = min(np.sort(places[:, axis])[-count] for places, count in zip(own, counts, strict=True))
        slab = Slab(int(chosen), axis, float(start), widest(store))
        if all((slab.number(*every) >= 0).any() for every in boxes):
            return slab
    return None


def widest(store: Store) -> float:
    """Å that a box of a store may reach along an axis of its tomogram: from corner to corner, where some are turned."""
    turned = store.attributes.get("config", {}).get("turned_share", 0) > 0
    return store.box_size * store.voxel_size * (math.sqrt(3) if turned else 1)


def draw_order(names: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Numbers of tomograms, first those that are held out first."""
    return np.random.default_rng((seed, 1)).permutation(names)


def split_rows(store: Store, share: float, limit: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and for validation.

    Whole tomograms are held out, since subtomograms of one tomogram share neighbours and optics; or the slab that `find_slab` finds, and what
    shares voxels with it is used for neither. InputError where there are too few tomograms for that.
    """
    tomogram = np.asarray(store["tomogram"][:])
    names = np.unique(tomogram)
    held_out = draw_order(names, seed)[: max(1, round(share * len(names)))]
    if (slab := find_slab(store, share, seed)) is not None:
        tomogram, held_out = slab.number(tomogram, store["box_position"][:]), np.array([HELD_OUT])
    elif len(names) < 2:
        what = f"{store.path} comes from a single tomogram, so none can be held out"
        how = "simulate two or more (particles > particles_per_tomogram), or cut more; of one that is a few boxes long, cut anew, the end will do"
        if "box_position" in store:
            what = f"{store.path} comes from a single tomogram; with its end held out (validation_share={share:g}) no boxes, or no tiles, are left"
            how = "try a smaller --set validation_share=, cut more tiles (tiles_per_tomogram), or give a longer tomogram or a second one"
        raise InputError(f"{what}: {how}")
    is_held_out = np.isin(tomogram, held_out)
    rows = np.random.default_rng((seed, 4)).permutation(np.flatnonzero(is_held_out))
    return np.flatnonzero(~is_held_out & (tomogram != NEITHER)), np.sort(rows[:limit])


def has_even_tilts(store: Store) -> NDArray[np.bool_]:
    """(n,), whether the tilts of each subtomogram reach equally far to both sides, as where the store does not say how far they reach."""
    if "tilt_min" not in store or "tilt_max" not in store:
        return np.ones(len(store), bool)
    return np.asarray(np.abs(store["tilt_min"][:] + store["tilt_max"][:]) < EVEN)


def class_shares(label: NDArray[np.int64], names: Sequence[str], config: AugmentConfig, smoothing: float) -> tuple[float, ...]:
    """How frequent a network takes each class to be that learns from particles with these labels (n,).

    Some of them are turned into "none", and with smoothed labels a share of every particle counts for all classes alike.
    """
    shares = np.bincount(label, minlength=len(names)) / len(label)
    if NONE_CLASS in names:
        shares *= 1 - min(1.0, config.inverted_share + config.scrambled_share)
        shares[list(names).index(NONE_CLASS)] += 1 - shares.sum()
    shares = np.maximum((1 - smoothing) * shares + smoothing / len(names), LEAST_SHARE / len(names))
    return tuple((shares / shares.sum()).tolist())


def warn_of_missing_signal(store: Store, config: AugmentConfig) -> None:
    """Say that nothing can be mixed anew where a store keeps no signal apart from its noise; loudly where a range of SNRs was asked for."""
    if config.snr is not None and not ("signal" in store and "signal_scale" in store):
        level = logging.INFO if config.snr == AugmentConfig().snr else logging.WARNING
        logger.log(level, "%s keeps no signal apart from its noise, so that augment.snr and augment.swap_noise do nothing", store.path)


def tile_rows(store: Store, particles: NDArray[np.int64], slab: Slab | None = None) -> NDArray[np.int64]:
    """Rows of the tiles that come from the tomograms of some particles, or from the part of a tomogram, where a slab is held out."""
    tomogram, own = (np.asarray(store[name][:]) for name in ("tomogram", "tiles/tomogram"))
    if slab is not None:
        tomogram, own = slab.number(tomogram, store["box_position"][:]), slab.number(own, store["tiles/position"][:])
    return np.flatnonzero(np.isin(own, np.unique(tomogram[particles])))


class PlannedBatches(Sampler[list[Draw]]):
    """Batches number `first` to `first + count - 1` of an endless shuffled sequence that depends on the seed alone.

    The sequence begins its first pass over the rows with batch number `start`. One of several processes gets its share of each batch.
    """

    def __init__(
        self, rows: NDArray[np.int64], batch_size: int, seed: int, first: int, count: int, start: int = 0, share: Share | None = None
    ) -> None:
        self.share = share or Share()
        self.rows, self.batch_size, self.seed, self.first, self.count, self.start = rows, batch_size, seed, first, count, start
        self._order: tuple[int, NDArray[np.int64]] = (-1, rows)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in range(self.first, self.first + self.count):
            draws = self.share.of(range(batch * self.batch_size, (batch + 1) * self.batch_size))
            yield [(self.row(draw), draw) for draw in draws]

    def row(self, draw: int) -> int:
        """Row of a draw: each pass over the rows has its own order."""
        number, place = divmod(draw - self.start * self.batch_size, len(self.rows))
        if self._order[0] != number:
            self._order = (number, np.random.default_rng((self.seed, 2, number)).permutation(self.rows))
        return int(self._order[1][place])


def keep_batch(batch: Batch) -> Batch:
    """The dataset makes whole batches: nothing is left to collate."""
    return batch


class SubtomogramDataset(Dataset[Batch]):
    """Batches of a store.

    Parameters
    ----------
    path : dataset store
    augment : settings; None: the stored subtomograms as they are
    seed : of the augmentation
    crop_size : voxels of the central cube to keep; None: all
    cache : folder for an uncompressed copy of the store's boxes; None: read the store itself
    tiles, tile_rows : tiles in each batch, and rows of the tiles to choose from
    class_names : what the labels are numbers of; rows of other classes must not be drawn. None: the store's names
    share : of each batch, where several processes train together; its draws are then a share, and so are the tiles that go with them
    """

    def __init__(
        self,
        path: Path,
        augment: AugmentConfig | None,
        seed: int,
        crop_size: int | None = None,
        cache: Path | None = None,
        tiles: int = 0,
        tile_rows: NDArray[np.int64] | None = None,
        class_names: tuple[str, ...] | None = None,
        share: Share | None = None,
    ) -> None:
        self.share = share or Share()
        self.path, self.augment, self.seed, self.crop_size, self.cache = path, augment, seed, crop_size, cache
        self.tiles, self.tile_rows, self.class_names = tiles, tile_rows, class_names
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """Opened on first use, in the process that uses it."""
        if self._store is None:
            self._store = open_store(self.path) if self.cache is None else unpack(open_store(self.path), self.cache)
            self._names = self.class_names or self._store.class_names
            self._label = known_labels(self._store, self._names)
            self._tomogram = self._store["tomogram"][:]
            self._amplitude = np.asarray(self._store["signal_scale"][:]) if "signal_scale" in self._store else None
            self._is_even = has_even_tilts(self._store)
        return self._store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, draw: Draw) -> Batch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """One whole batch; the loader must not collate it again."""
        rows = np.array([row for row, _ in draws])
        rngs = [np.random.default_rng((self.seed, 3, draw)) for _, draw in draws]
        store = self.store
        label = self._label[rows]
        x = self._mixed(rows, rngs)
        mask = store.read_rows("mask", rows) if "mask" in store else np.zeros(x.shape)
        density = store.read_rows("density", rows) if "density" in store else np.zeros(x.shape)
        volumes = np.stack([x, mask.astype(np.float32), density.astype(np.float32)], axis=1)
        if self.crop_size:
            volumes = crop_or_pad(volumes, (self.crop_size,) * 3)
        tiles = self._tiles(draws[0][1] - self.share.rank * len(draws)) if self.tiles else None
        if self.augment is None:
            return as_batch(volumes, label, tiles)
        none = self._names.index(NONE_CLASS) if NONE_CLASS in self._names else None
        for i, rng in enumerate(rngs):
            label[i] = augment(volumes[i], label[i], rng, self.augment, store.voxel_size, none)
        return as_batch(volumes, label, tiles)

    def _tiles(self, draw: int) -> Array:
        """The tiles of the batch that begins with a draw, (t, 3, d, h, w): tile, labels, centres."""
        rngs = [np.random.default_rng((self.seed, 6, draw, number)) for number in self.share.of(range(self.tiles))]
        store, config = self.store, self.augment
        candidates = np.arange(store["tiles/labels"].shape[0]) if self.tile_rows is None else self.tile_rows
        rows = np.array([rng.choice(candidates) for rng in rngs])
        stored, labels, centres = (store.read_rows(f"tiles/{name}", rows).astype(np.float32) for name in ("subtomogram", "labels", "centres"))
        if config is not None and config.snr is not None and "tiles/signal" in store:
            signal = store.read_rows("tiles/signal", rows).astype(np.float32)
            noise = stored - store.read_rows("tiles/signal_scale", rows)[:, None, None, None] * signal
            scale = np.sqrt([draw_log_uniform(rng, config.snr) for rng in rngs])
            sign = np.array([rng.choice([-1, 1]) for rng in rngs])
            stored = (scale[:, None, None, None] * signal + sign[:, None, None, None] * noise).astype(np.float32)
        volumes = np.stack([stored, labels, centres], axis=1)
        if self.crop_size:
            volumes = crop_or_pad(volumes, (self.crop_size,) * 3)
        if config is None:
            return volumes
        return np.stack([augment_tile(tile, rng, config, store.voxel_size) for tile, rng in zip(volumes, rngs, strict=True)])

    def _mixed(self, rows: NDArray[np.int64], rngs: list[np.random.Generator]) -> Array:
        """Subtomograms as stored, or their signal with noise of the same tomogram at another SNR."""
        stored = self.store.read_rows("subtomogram", rows).astype(np.float32)
        augment = self.augment
        if augment is None or augment.snr is None or "signal" not in self.store or self._amplitude is None:
            return stored
        signal = self.store.read_rows("signal", rows).astype(np.float32)
        if augment.swap_noise:
            others = np.array([rng.choice(np.flatnonzero(self._tomogram == self._tomogram[row])) for row, rng in zip(rows, rngs, strict=True)])
            noise = self._noise(others, self.store.read_rows("subtomogram", others).astype(np.float32), self.store.read_rows("signal", others))
        else:
            noise = self._noise(rows, stored, signal)
        mixed = np.empty_like(stored)
        for i, rng in enumerate(rngs):
            axes = HALF_TURNS[rng.integers(4)] if augment.half_turns else ()
            if not self._is_even[rows[i]] and axes != ABOUT_TILT_AXIS:
                axes = ()  # the signal is not turned: the noise must keep its wedge
            turned = turn(torch.from_numpy(noise[i]), axes).numpy() * rng.choice([-1, 1])
            mixed[i] = np.sqrt(draw_log_uniform(rng, augment.snr)) * signal[i] + turned
        return mixed

    def _noise(self, rows: NDArray[np.int64], subtomograms: Array, signals: NDArray[np.generic]) -> Array:
        assert self._amplitude is not None
        noise: Array = subtomograms - self._amplitude[rows][:, None, None, None] * signals.astype(np.float32)
        return noise


def augment(volumes: Array, label: int, rng: np.random.Generator, config: AugmentConfig, voxel_size: float, none: int | None) -> int:
    """Change one example (subtomogram, mask, density) in its own copy of the batch; return its label."""
    if config.half_turns:
        volumes[:] = turn(torch.from_numpy(volumes), HALF_TURNS[rng.integers(4)]).numpy()
    fate = rng.random()
    if none is not None and fate < config.inverted_share + config.scrambled_share:
        volumes[0] = -volumes[0] if fate < config.inverted_share else scramble_phases(volumes[0], rng)
        volumes[1:] = 0
        label = none
    volumes[0] = random_filter(volumes[0], voxel_size, rng, config)
    if rng.random() < config.padding_share:
        volumes[0] = blank_border(volumes[0], int(rng.integers(1, 4)))
    return label


def augment_tile(tile: Array, rng: np.random.Generator, config: AugmentConfig, voxel_size: float) -> Array:
    """A half turn of tile, labels and centres, and a random filter on the tile."""
    axes = HALF_TURNS[rng.integers(4)] if config.half_turns else ()
    turned = turn(torch.from_numpy(tile), axes).numpy()
    return np.concatenate([random_filter(turned[0], voxel_size, rng, config)[None], turned[1:]])


def as_batch(volumes: Array, label: NDArray[np.int64], tiles: Array | None = None) -> Batch:
    """(b, 3, d, h, w) subtomogram, mask, density, and (t, 3, d, h, w) tile, labels, centres -> Batch with standardised subtomograms."""
    subtomogram, mask, density = (torch.from_numpy(part) for part in (standardise(volumes[:, 0]), volumes[:, 1], volumes[:, 2]))
    batch = Batch(subtomogram, torch.from_numpy(label), mask, density)
    if tiles is None:
        return batch
    heat = torch.from_numpy(np.stack([centre_heat(centres) for centres in tiles[:, 2]]))
    return batch._replace(tile=torch.from_numpy(standardise(tiles[:, 0])), tile_labels=torch.from_numpy(tiles[:, 1]).long(), tile_heat=heat)


def centre_heat(centres: Array) -> Array:
    """1 in each cell of 2^3 voxels with a centre, falling off around it as a Gaussian, (d, h, w) -> (d/2, h/2, w/2)."""
    d, h, w = (n // 2 for n in centres.shape)
    cells: Array = centres.reshape(d, 2, h, 2, w, 2).max((1, 3, 5))
    if cells.any():
        squared = ndimage.distance_transform_edt(cells == 0) ** 2
        cells = np.exp(-squared / (2 * HEAT_WIDTH**2)).astype(np.float32)
    return cells


def random_filter(data: Array, voxel_size: float, rng: np.random.Generator, config: AugmentConfig) -> Array:
    """A random low-pass filter, fall-off and high-pass filter, each on its share of the subtomograms."""
    low_pass = rng.uniform(*config.low_pass) if rng.random() < config.low_pass_share else 0.0
    steepness = rng.uniform(0.05, 0.4)
    fall_off = rng.uniform(*config.fall_off) if rng.random() < config.fall_off_share else 0.0
    high_pass = rng.uniform(150, 1000) if rng.random() < config.high_pass_share else 0.0
    depth = rng.uniform(0.3, 0.95)
    if not (low_pass > 2 * voxel_size or fall_off or high_pass):
        return data
    k = torch.from_numpy(frequency_grid(data.shape, voxel_size))
    transfer = torch.exp(-fall_off * k**2 / 4)
    if low_pass > 2 * voxel_size:
        transfer *= torch.sigmoid((1 - k * low_pass) / steepness)
    if high_pass:
        transfer *= 1 - depth * torch.exp(-((k * high_pass) ** 2) / 2)
    filtered: Array = torch.fft.irfftn(torch.fft.rfftn(torch.from_numpy(data)) * transfer, s=data.shape).numpy()
    return filtered


def blank_border(data: Array, width: int) -> Array:
    """The outer `width` voxels set to the mean of the rest, as padding does."""
    inside = tuple(slice(width, n - width) for n in data.shape)
    result = np.full_like(data, data[inside].mean())
    result[inside] = data[inside]
    return result
