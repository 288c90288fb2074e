"""A stream of subtomograms and their table, wherever they come from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from triptych.config import Contrast
from triptych.errors import InputError
from triptych.io.files import way_to
from triptych.io.links import CTF_VOLUME, RECONSTRUCTED, name_from, search_folders
from triptych.io.output_names import PARTICLES
from triptych.io.readers import Crops, Images, Reader, Rows
from triptych.io.star import Block, tables_with
from triptych.io.tilt_stacks import TiltStacks
from triptych.io.transfers import CtfVolumes, Transfers
from triptych.transfer import CtfTransfers
from triptych.volume import Volume, spread_numbers

IntArray = NDArray[np.int64]

NEAREST = 30.0
"""Å: two particles of a tomogram whose centres are nearer are one."""


@dataclass(frozen=True, eq=False)
class ParticleSource:
    """A stream of subtomograms and their table."""

    kind: str
    """"star" (images), "coordinates" (cut out of tomograms), "files" (MRC) or "store" (Zarr)."""
    names: list[str]
    """Unique also where case does not count, and safe as file names."""
    blocks: dict[str, Block]
    """Every block of the input STAR file in its order; else one with the file names."""
    block: str
    """Name of the block with the particles."""
    reader: Reader
    contrast: Contrast | None = None
    """What the files state; None: nothing."""
    files: list[Path] = field(default_factory=list)
    """What identifies the input: the STAR file, the folder, the store; then the tomograms, and the tables that were read of them."""
    offsets: NDArray[np.float64] | None = None
    """x, y, z in Å from the centre of each box that was cut out to the particle's position: what rounding to voxels left over."""
    origins: NDArray[np.float64] | None = None
    """rlnOriginX/Y/Z in Å, (n, 3), of what was cut out of tomograms: the positions have them applied already."""
    tilt_ranges: NDArray[np.float64] | None = None
    """Lowest and highest tilt that each particle was made from, degrees, (n, 2), where the files say."""
    transfers: Transfers | None = None
    """What the files say of the CTF."""
    ctf: CtfTransfers | None = None
    """What is left of the CTF and is to be undone before a model looks; None: nothing."""
    description: str = ""
    """How the input was understood, for the log and for people."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def table(self) -> pd.DataFrame:
        """One row per particle, every input column in order."""
        table = self.blocks[self.block]
        assert isinstance(table, pd.DataFrame)
        return table

    @property
    def optics(self) -> pd.DataFrame | None:
        return tables_with(self.blocks).get("optics")

    @property
    def lies_as_tomogram(self) -> bool:
        """Whether the boxes' axes are those of the tomogram; those of RELION's 3-D images may be turned by rlnTomoSubtomogramRot/Tilt/Psi."""
        return not isinstance(self.reader, Images)

    @property
    def has_ctf_undone(self) -> bool:
        """Whether the volumes are made here, of tilt images whose CTF is divided out."""
        return isinstance(self.reader, TiltStacks)

    @property
    def tomograms(self) -> list[Path] | None:
        """The tomogram that each particle is cut out of; None where they are not."""
        reader = self.reader
        return [reader.paths[number] for number in reader.tomogram] if isinstance(reader, Crops) else None

    def blocks_with(self, table: pd.DataFrame) -> dict[str, Block]:
        """What to write: the input's blocks in their order, with another table of particles, in a block "particles"."""
        return {"particles" if name == self.block else name: table if name == self.block else block for name, block in self.blocks.items()}

    def table_for(self, folder: Path) -> pd.DataFrame:
        """The table for a STAR file in a folder: an image or tomogram that would not be found from there by its name is named anew."""
        folder = Path(os.path.realpath(folder))  # however it is called: ".." is taken from where a link leads to
        if isinstance(self.reader, Crops):
            return self._with_tomograms(folder, self.reader)
        if not isinstance(self.reader, Images):
            return self.table
        folders = search_folders(folder / PARTICLES)
        ways = {"rlnImageName": self.reader.paths, **self._ctf_volumes()}
        return self.table.assign(
            **{
                column: [name_from(folder, folders, str(name), path) for name, path in zip(self.table[column], paths, strict=True)]
                for column, paths in ways.items()
            }
        )

    def _ctf_volumes(self) -> dict[str, list[str]]:
        """The column of the CTF volumes and where they are; nothing where they are gone, which matters only to who needs them."""
        if not isinstance(self.transfers, CtfVolumes):
            return {}
        try:
            return {CTF_VOLUME: [str(path) for path in self.transfers.paths]}
        except InputError:
            return {}

    def _with_tomograms(self, folder: Path, reader: Crops) -> pd.DataFrame:
        """The table with the way from a folder to the tomogram of each particle."""
        ways = [way_to(path, folder) for path in reader.paths]
        return self.table.assign(**{RECONSTRUCTED: [ways[number] for number in reader.tomogram]})

    def read(self, index: int) -> Volume:
        """Grey values as stored, float32, of particle ``index``; its origin is that of the box where it was cut out of a tomogram."""
        return self.reader.read(index)

    def sample(self, most: int) -> list[Volume]:
        """Particles from all over the input, so many at most, the first among them."""
        return [self.read(row) for row in spread_numbers(len(self), most)]

    def take(self, rows: IntArray) -> ParticleSource:
        """The particles of the given rows, in that order."""

        def pick(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if values is None else values[rows]

        return replace(
            self,
            names=[self.names[row] for row in rows],
            blocks=self.blocks | {self.block: self.table.iloc[rows].reset_index(drop=True)},
            reader=self.reader.take(rows),
            offsets=pick(self.offsets),
            origins=pick(self.origins),
            tilt_ranges=pick(self.tilt_ranges),
            transfers=None if self.transfers is None else self.transfers.take(rows),
            ctf=None if self.ctf is None else self.ctf.take(rows),
        )


def number_distinct(source: ParticleSource) -> IntArray:
    """What each particle shows, by number, (n,): the same where it is the same image, or nearer than `NEAREST` in the same tomogram."""
    reader, count = source.reader, len(source)
    if isinstance(reader, Crops):
        tomogram = reader.tomogram
        places = reader.centers[:, ::-1] * np.array(reader.voxel_sizes)[tomogram, None] + (0 if source.offsets is None else source.offsets)
    elif isinstance(reader, Rows):
        tomogram, places = (reader.store[name][:][reader.rows] for name in ("tomogram", "position"))
        if not np.ptp(places, axis=0).any():  # as where no one knew them
            return np.arange(count)
    else:
        assert isinstance(reader, Images | TiltStacks)  # there are no others
        numbers = reader.numbers if isinstance(reader, Images) else [None] * count
        return np.asarray(pd.factorize(pd.Series(list(zip(reader.paths, numbers, strict=True)), dtype=object))[0], dtype=np.int64)
    far = np.column_stack([places, np.asarray(tomogram, np.float64) * 1e6])  # from one tomogram to another
    one, other = cKDTree(far).query_pairs(np.nextafter(NEAREST, 0), output_type="ndarray").T
    return np.asarray(connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(count, count)), directed=False)[1], dtype=np.int64)


def voxel_sizes(source: ParticleSource, first: Volume) -> list[float]:
    """The distinct voxel sizes of a source, or of its first particle where only the headers tell, in Å, ascending."""
    reader = source.reader
    if isinstance(reader, Crops):
        return sorted(set(reader.voxel_sizes))
    if isinstance(reader, Rows):
        return [reader.voxel_size]
    if isinstance(reader, Images | TiltStacks) and reader.voxel_sizes is not None:
        return sorted({float(size) for size in reader.voxel_sizes})
    return [first.voxel_size]
