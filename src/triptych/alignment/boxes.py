"""The boxes of predicted particles, ready to be aligned: recovered densities and subtomograms on one grid, and by what CTF and tilt range
the Fourier terms of these came out multiplied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.alignment.align import Alignment
from triptych.config import ASSUMED_TILT_RANGE, PoseSettings
from triptych.errors import InputError
from triptych.fourier import resample_to_box, wedge_weights
from triptych.io.files import new_array, way_to
from triptych.io.links import CTF_VOLUME, RECONSTRUCTED
from triptych.io.mrc import read_mrc
from triptych.io.particle_source import ParticleSource
from triptych.io.particle_star import add_poses, subtomogram_matrices
from triptych.io.predictions import MAP_COLUMNS, Predicted, open_input
from triptych.io.relion import SUBTOMOGRAM_ANGLES
from triptych.io.store import open_store
from triptych.io.transfers import CtfVolumes, Transfers
from triptych.missing_wedge import find_missing_wedge
from triptych.volume import Volume, standardise

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]
ASSUMED = "assumed, since no file states it"
LOOKED_AT = 12
"""Subtomograms whose power spectra are looked at."""


@dataclass(frozen=True)
class Grid:
    """A cube of voxels."""

    voxel_size: float
    box_size: int

    def bring(self, volume: Volume, fill: float | None = None) -> NDArray[np.float32]:
        """A volume on this grid, centre on centre; around it `fill`, or its mean."""
        return resample_to_box(volume, self.voxel_size, self.box_size, fill)

    def stack(self, path: Path, rows: IntArray, read: Callable[[int], Volume]) -> NDArray[np.float32]:
        """Volumes of some particles on this grid, in a file that is mapped into memory: they may be more than that holds."""
        volumes = new_array(path, np.float32, (len(rows), *(self.box_size,) * 3))
        for number, row in enumerate(rows):
            volumes[number] = self.bring(read(int(row)))
        return volumes


@dataclass(frozen=True, eq=False)
class Boxes:
    """What a prediction was made from and what it recovered.

    Attributes
    ----------
    transfers : what is known of the CTF; None: nothing, or it is left aside
    tilt_ranges : (n, 2), lowest and highest tilt of each particle, degrees; tilts_from : where they come from
    frames : (n, 3, 3), axes of the boxes -> those of the tomogram; None where they are the same
    ctf_from : what is done about the CTF, in words
    """

    given: Predicted
    source: ParticleSource
    transfers: Transfers | None
    tilt_ranges: NDArray[np.float64]
    tilts_from: str
    frames: NDArray[np.float64] | None
    ctf_from: str

    @property
    def true_classes(self) -> list[str] | None:
        """Class of each particle where a dataset says it."""
        if self.source.kind != "store":
            return None
        store = open_store(self.source.files[0])
        label = dict(zip(store.particle_names, store["label"][:].tolist(), strict=True))
        return [store.class_names[label[name]] for name in self.given.names]

    def alignment_grid(self, first: Volume) -> Grid:
        """Where recovered densities are aligned: they hold no more than the model's voxels do, unless the input is coarser still."""
        model = self.given.manifest["model"]
        coarse = max(float(model["voxel_size"]), first.voxel_size)
        seen = min(first.shape[0] * first.voxel_size, float(model["box_size"]) * float(model["voxel_size"]))
        return Grid(coarse, even(seen / coarse))

    def read_density(self, row: int) -> Volume:
        assert self.given.densities is not None  # open_boxes made sure
        return read_mrc(self.given.densities[row])

    def read_subtomogram(self, row: int) -> Volume:
        """Protein bright, mean 0 and standard deviation 1."""
        volume = self.source.read(row)
        return volume.with_data(standardise(np.float32(self.given.sign) * volume.data))

    def densities(self, desk: Path, rows: IntArray, grid: Grid) -> NDArray[np.float32]:
        """Recovered densities of some particles."""
        return grid.stack(desk / "densities.npy", rows, self.read_density)

    def subtomograms(self, desk: Path, rows: IntArray, grid: Grid) -> NDArray[np.float32]:
        return grid.stack(desk / "subtomograms.npy", rows, self.read_subtomogram)

    def wedges(self, desk: Path, rows: IntArray, grid: Grid) -> NDArray[np.float32]:
        """By what the Fourier terms of each of some particles came out multiplied: one array for all of them where there is no difference."""
        if self.transfers is None and self.frames is None and len(np.unique(self.tilt_ranges[rows], axis=0)) == 1:
            return self.wedge(int(rows[0]), grid)[None]
        wedges = new_array(desk / "wedges.npy", np.float32, (len(rows), grid.box_size, grid.box_size, grid.box_size // 2 + 1))
        for number, row in enumerate(rows):
            wedges[number] = self.wedge(int(row), grid)
        return wedges

    def wedge(self, row: int, grid: Grid) -> NDArray[np.float32]:
        """Of one particle: 0 in its missing wedge, elsewhere the CTF where it is known, else 1."""
        low, high = self.tilt_ranges[row]
        measured = wedge_weights((grid.box_size,) * 3, low, high, None if self.frames is None else self.frames[row])
        return measured if self.transfers is None else measured * self.transfers.of(row, grid.box_size, grid.voxel_size)

    def warn_of_tilts(self) -> None:
        """Warn where the power spectra of the subtomograms show another tilt axis than y, where tilts are assumed, and where these are not seen."""
        volumes = [] if self.frames is not None else self.source.sample(LOOKED_AT)
        seen = find_missing_wedge(*(volume.with_data(standardise(volume.data)) for volume in volumes))
        if seen is not None and not seen.lies_as_expected:
            how = "turn the tomograms as `triptych info` says, and predict again"
            logger.warning("the power spectra of the subtomograms show %s, but tilts around y and a beam along z were expected: %s", seen, how)
        if self.tilts_from != ASSUMED:
            return
        doubt = " (--set tilt_range= says otherwise)"
        if seen is not None and seen.lies_as_expected and not seen.agrees(*ASSUMED_TILT_RANGE):
            low, high = f"{seen.tilt_min:.0f}", f"{seen.tilt_max:.0f}"
            what = f"the power spectra of the subtomograms show about {low} to {high} (tilts of little weight are not seen)"
            doubt = f", but {what}: look which were used, and say so, as with --set tilt_range=[{low},{high}]"
        logger.warning("no file states the tilt range: tilts from %g to %g degrees are assumed%s", *ASSUMED_TILT_RANGE, doubt)

    def refer_from(self, folder: Path) -> pd.DataFrame:
        """The table of the predictions for a STAR file in another folder, from which images, masks and densities are found."""
        table, named = self.given.table, self.source.table_for(folder)
        way = way_to(self.given.folder, folder)
        moved = {name: [f"{way}/{path}" for path in table[name]] for name in MAP_COLUMNS.values() if name in table}
        moved |= {name: named[name].to_list() for name in ("rlnImageName", CTF_VOLUME, RECONSTRUCTED) if name in table and name in named}
        return table.assign(**moved)

    def posed_table(self, folder: Path, rows: IntArray, poses: Alignment) -> pd.DataFrame:
        """Rows of some particles with their poses, for a STAR file in a folder."""
        table = self.refer_from(folder).iloc[rows].assign(triptychAlignmentScore=poses.scores)
        offsets, origins = (None if values is None else values[rows] for values in (self.source.offsets, self.source.origins))
        return add_poses(
            table, poses.rotations, poses.shifts, lies_as_tomogram=self.source.lies_as_tomogram, offsets=offsets, origins=origins
        )  # fmt: skip


def open_boxes(given: Predicted, config: PoseSettings, by_densities: bool = True) -> Boxes:
    """The particles that predictions were made from; InputError where they, the CTFs that count, or the densities that are needed are gone."""
    source = open_source(given, by_densities)
    transfers = source.transfers if config.ctf else None
    if isinstance(transfers, CtfVolumes):
        transfers.paths  # noqa: B018  looks for them
    tilt_ranges, tilts_from = find_tilt_ranges(source, transfers, config)
    known = "left as it is" if config.ctf else "left as it is, as set"
    turned = not source.lies_as_tomogram and set(SUBTOMOGRAM_ANGLES) <= set(source.table)
    frames = subtomogram_matrices(source.table) if turned else None
    return Boxes(given, source, transfers, tilt_ranges, tilts_from, frames, known if transfers is None else f"undone, by {transfers.origin}")


def open_source(given: Predicted, by_densities: bool = True) -> ParticleSource:
    if by_densities and given.densities is None:
        how = "predict with write_densities=true, by a model that has the task density; or orient with --set align_by=subtomograms"
        raise InputError(f"{given.folder} holds no recovered densities, which particles are aligned by: {how}")
    source, trouble = open_input(given)
    if source is None:
        how = "put back what was there, or predict again"
        raise InputError(f"the particles that {given.folder} was predicted from cannot be read again ({trouble}), but they are averaged: {how}")
    return source


def find_tilt_ranges(source: ParticleSource, transfers: Transfers | None, config: PoseSettings) -> tuple[NDArray[np.float64], str]:
    """Lowest and highest tilt of each particle, (n, 2), and where they come from."""
    if config.tilt_range is not None:
        return np.tile(config.tilt_range, (len(source), 1)), "as set"
    if transfers is not None and transfers.holds_wedge:
        return np.tile((-90.0, 90.0), (len(source), 1)), f"as in {transfers.origin}"
    if source.tilt_ranges is not None:
        return source.tilt_ranges, "as the particles' files state"
    return np.tile(ASSUMED_TILT_RANGE, (len(source), 1)), ASSUMED


def even(number: float) -> int:
    """The largest even number that is no larger, but for rounding errors."""
    return 2 * int(number / 2 + 1e-6)
