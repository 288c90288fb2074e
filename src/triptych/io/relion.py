"""What RELION (3.0, 3.1, 4, 5) and Warp mean by the columns of their STAR files: where a particle is and how it is turned.

The rules, each of which has been got wrong by some importer:

- ``rlnCoordinateX/Y/Z`` are pixels from the corner. RELION counts pixels of the *unbinned* tilt series
  (``rlnTomoTiltSeriesPixelSize``); Warp, whose names end in ".tomostar" or (Warp 1) in "_10.00Apx.mrc", counts pixels of the
  *export* (``rlnPixelSize``, ``rlnDetectorPixelSize`` at magnification 10000, or ``rlnImagePixelSize``).
- Where WarpTools' template matching wrote them, they are *fractions* of the tomogram's sides (N voxels), and there is no pixel size.
- ``rlnCenteredCoordinateX/Y/ZAngst`` (RELION 5) are Å from the tomogram's centre, which is N / 2 unbinned pixels from
  the corner, as in RELION's C++ and in copick. (RELION's Python pickers use N / 2 - 1: one unbinned pixel elsewhere.)
- Origins are rotated by the subtomogram's matrix and subtracted: position = coordinate - A_subtomogram · origin.
- ``rlnAngleRot/Tilt/Psi`` are intrinsic ZYZ angles in degrees, whose matrix takes the tomogram to the particle; we keep
  its inverse A, particle -> tomogram. With ``rlnTomoSubtomogramRot/Tilt/Psi``: A = A_subtomogram · A_particle.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from triptych.errors import InputError
from triptych.io.angles import angles_from_matrices
from triptych.io.links import RECONSTRUCTED, find_file, find_mrc, search_folders
from triptych.io.mrc import read_header, stated_voxel_size
from triptych.io.output_names import TOMOGRAMS
from triptych.io.star import Block, numbers, read_star, tables_with
from triptych.io.tilts import BEAM, TiltTable, extreme_tilts, read_tilts
from triptych.io.tomogram_names import TOMOSTAR, is_warp_name
from triptych.particles import Frame
from triptych.volume import check_voxel_sizes

logger = logging.getLogger(__name__)

AXES = ("X", "Y", "Z")
COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in AXES)
CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in AXES)
ORIGINS = tuple(f"rlnOrigin{axis}{unit}" for unit in ("Angst", "") for axis in AXES)
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
IMAGE_PIXEL_SIZES = ("rlnImagePixelSize", "rlnPixelSize")
UNBINNED_PIXEL_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
PIXEL_SIZES = (*IMAGE_PIXEL_SIZES, *UNBINNED_PIXEL_SIZES)
BINNING = "rlnTomoTomogramBinning"
"""Voxels of a tomogram over the pixels of its tilt series."""
SET_FILES = {"particles": "rlnTomoParticlesFile", "tomograms": "rlnTomoTomogramsFile"}
"""What an optimisation set calls the files that it names, which RELION takes from the folder of its project."""
SINGLE = {"rlnOpticsGroup", "rlnTomoName", "rlnMicrographName", "rlnImageName"}
"""Columns of tables, of which a list of pairs has at least one if it is a table of a single row."""
SCORES = ("triptychScore", "triptychProbability", "rlnAutopickFigureOfMerit", "rlnLCCmax", "rlnMaxValueProbDistribution")
"""Columns that may say how sure a particle is; the first that is there counts."""
CLASSES = ("triptychClass", "rlnClassNumber")
M_COORDINATES = tuple(f"wrpCoordinate{axis}1" for axis in AXES)
"""What M writes of a species' particles: Å from the first voxel; of several points in time, the first counts."""


@dataclass(frozen=True, eq=False)
class RelionFile:
    """A particle STAR file and what belongs to it."""

    path: Path
    blocks: dict[str, Block]
    """Every block of the file, in its order."""
    block: str
    """Name of the block that holds the particles."""
    optics: pd.DataFrame | None = None
    tomograms: pd.DataFrame | None = None
    """The table of tomograms (``data_global``), from the same folder or named by an optimisation set."""
    folders: tuple[Path, ...] = field(default=())
    """Where relative paths may start: the file's folder, then each folder above it (one is the project's root)."""
    tomogram_blocks: dict[str, Block] = field(default_factory=dict)
    """Every block of the file that `tomograms` came from, if it came from another file: RELION 4 and Warp have one for each tomogram."""
    tomograms_file: Path | None = None
    """That file."""

    @property
    def table(self) -> pd.DataFrame:
        table = self.blocks[self.block]
        assert isinstance(table, pd.DataFrame)  # read_relion made sure
        return table

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def tomogram_names(self) -> list[str] | None:
        return tomogram_names(self.table)

    @cached_property
    def is_warp(self) -> bool:
        """Its tomograms are called as Warp calls them; files of its reconstructions may also be in a list whose pixels are the tilt series'."""
        names = self.tomogram_names or [""]
        return all(map(is_warp_name, names)) and (all(name.endswith(TOMOSTAR) for name in names) or not self._states_unbinned)

    @cached_property
    def counts_fractions(self) -> bool:
        """Its coordinates are fractions of the tomograms' sides, as WarpTools' template matching writes them: from 0 to 1, without a pixel size."""
        stated = set(self.table) | (set() if self.optics is None else set(self.optics))
        if not self.is_warp or not set(COORDINATES) <= set(self.table) or stated & {*PIXEL_SIZES, "rlnDetectorPixelSize"}:
            return False
        places = np.stack([numbers(self.table, label, self.path) for label in COORDINATES])
        return bool((places >= 0).all() and (places <= 1).all() and (places % 1).any())

    @property
    def _states_unbinned(self) -> bool:
        return any(self.values(label) is not None for label in UNBINNED_PIXEL_SIZES)

    @property
    def dialect(self) -> str:
        """The program whose rules we apply."""
        labels = set(self.table.columns)
        version = "RELION 3.0" if self.optics is None else "RELION 3.1"
        if self.tilt_stacks or set(CENTERED) & labels:
            version = "RELION 5"
        elif "rlnTomoName" in labels and self.optics is not None:
            version = "RELION 4"
        return f"Warp ({version} columns)" if self.is_warp else version

    @property
    def tilt_stacks(self) -> bool:
        """The images are stacks of 2-D tilt images instead of volumes."""
        general = self.blocks.get("general")
        if isinstance(general, dict) and general.get("rlnTomoSubTomosAre2DStacks") == 1:
            return True
        return self.optics is not None and "rlnImageDimensionality" in self.optics and bool((self.optics["rlnImageDimensionality"] == 2).any())

    def values(self, label: str, may_lack: bool = False) -> NDArray[np.float64] | None:
        """A number per particle: from the particles' table, else from their optics groups, else from their tomograms.

        All are finite; with `may_lack`, nan where nothing is stated.
        """
        if label in self.table:
            return numbers(self.table, label, self.path, may_lack)
        if self.optics is not None and label in self.optics:
            return numbers(self.optics, label, self.path, may_lack)[self._optics_rows()]
        if self.tomograms is not None and label in self.tomograms and "rlnTomoName" in self.tomograms and "rlnTomoName" in self.table:
            self._check_unique(self.tomograms, "rlnTomoName", self.tomograms_file or self.path)
            known = {str(name): row for row, name in enumerate(self.tomograms["rlnTomoName"])}
            rows = self._look_up(known, [str(name) for name in self.table["rlnTomoName"]], "tomogram")
            return numbers(self.tomograms[[label]].iloc[rows], label, self.tomograms_file or self.path, may_lack)
        return None

    def _optics_rows(self) -> NDArray[np.int64]:
        assert self.optics is not None
        if "rlnOpticsGroup" not in self.table:
            if len(self.optics) == 1:
                return np.zeros(len(self), dtype=np.int64)
            raise InputError(f"{self.path} has {len(self.optics)} optics groups, but its particles lack the column rlnOpticsGroup: export it again")
        if "rlnOpticsGroup" not in self.optics:
            raise InputError(f"the optics table of {self.path} lacks the column rlnOpticsGroup: export it again")
        self._check_unique(self.optics, "rlnOpticsGroup", self.path)
        known = {group: row for row, group in enumerate(self.optics["rlnOpticsGroup"].tolist())}
        return self._look_up(known, self.table["rlnOpticsGroup"].tolist(), "optics group")

    @staticmethod
    def _check_unique(table: pd.DataFrame, label: str, path: Path) -> None:
        """InputError where a table says of the same two different things, as one that was put together of two projects' does."""
        names = table.drop_duplicates()[label]
        if names.duplicated().any():
            twice = names[names.duplicated()].iloc[0]
            raise InputError(f"{label} {twice} is in two rows of {path} that differ, but one was expected: tell them apart before joining files")

    def _look_up(self, known: dict[Any, int], keys: Sequence[Any], what: str) -> NDArray[np.int64]:
        rows = np.array([known.get(key, -1) for key in keys], dtype=np.int64)
        if (rows < 0).any():
            row = int(np.argmax(rows < 0))
            raise InputError(f"row {row + 1} of {self.path} names the {what} {keys[row]}, which is in no table: export the file again")
        return rows

    def image_voxel_size(self) -> NDArray[np.float64] | None:
        """Å per voxel of each particle's image, where the file states it."""
        for label in IMAGE_PIXEL_SIZES:
            sizes = self.values(label)
            if sizes is not None:
                return _checked(sizes, label, self.path)
        return self._detector_pixel_size()

    @property
    def unset_pixel_size(self) -> str | None:
        """Words for a pixel size that is exactly 1 Å, as programs write it that do not know it; None where there is none."""
        tables = [table for table in (self.table, self.optics, self.tomograms) if table is not None]
        label = next((label for label in PIXEL_SIZES for table in tables if label in table and (table[label] == 1).any()), None)
        return label and f"{label} of {self.path} is exactly 1 Å, which usually means that it was never set"

    def _detector_pixel_size(self) -> NDArray[np.float64] | None:
        """RELION 3.0 and Warp: detector pixel size in µm over magnification; pytom gives it in Å without a magnification."""
        detector, magnification = self.values("rlnDetectorPixelSize"), self.values("rlnMagnification")
        if detector is None:
            return None
        if magnification is None:
            return _checked(detector, "rlnDetectorPixelSize", self.path)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _checked(detector * 1e4 / magnification, "rlnDetectorPixelSize over rlnMagnification", self.path)

    def coordinate_pixel_size(self, given: float | None = None) -> NDArray[np.float64]:
        """Å per pixel of ``rlnCoordinateX/Y/Z``, for each particle; see the rules above."""
        if given is not None:
            return np.full(len(self), given)
        if not self.is_warp:
            for label in UNBINNED_PIXEL_SIZES:
                sizes = self.values(label)
                if sizes is not None:
                    return _checked(sizes, label, self.path)
        image = self.image_voxel_size() if self.is_warp or self.values("rlnImagePixelSize") is None else None
        if image is not None:
            return image
        images = self.image_voxel_size() is not None
        stated = "states their size in its images only (rlnImagePixelSize), not in the tilt series" if images else "does not state the pixel's size"
        raise InputError(
            f"{self.path} has coordinates in pixels, but {stated} ({', '.join(UNBINNED_PIXEL_SIZES)}{'' if images else ' or rlnPixelSize'}): "
            "give it in Å with --set coordinate_pixel_size= (predict, cut) or --input-voxel-size (convert)"
        )

    def coordinate_rule(self, given: float | None = None) -> str:
        """What rlnCoordinateX/Y/Z count in, in words for people."""
        if self.counts_fractions:
            return "fractions of the tomograms' sides, as WarpTools' template matching writes them"
        sizes = ", ".join(f"{size:g}" for size in np.unique(self.coordinate_pixel_size(given)))
        own = "as Warp exports" if self.is_warp else "the unbinned tilt series" if self._states_unbinned else "as exported"
        return f"pixels of {sizes} Å ({own if given is None else 'as given'}) from the first voxel"

    def coordinates(self, pixel_size: float | None = None, sides: NDArray[np.float64] | None = None) -> tuple[NDArray[np.float64], bool]:
        """Positions with the origin shifts applied.

        Parameters
        ----------
        pixel_size : Å per pixel of rlnCoordinateX/Y/Z; None: as the file says
        sides : (n, 3), Å along x, y, z of each particle's tomogram, which must be given where coordinates are fractions of them

        Returns
        -------
        (n, 3) array of x, y, z in Å, and whether they count from the tomogram's centre (else from its first voxel)
        """
        centered = all(label in self.table for label in CENTERED)
        labels = CENTERED if centered else COORDINATES
        missing = [label for label in labels if label not in self.table]
        if missing:
            raise InputError(
                f"{self.path} lacks the column {missing[0]}: give a STAR file with rlnImageName, with "
                "rlnCoordinateX/Y/Z or with rlnCenteredCoordinateX/Y/ZAngst"
            )
        positions = np.stack([numbers(self.table, label, self.path) for label in labels], axis=1)
        if not centered and self.counts_fractions:
            if sides is None:
                raise InputError(f"{self.path} counts in {self.coordinate_rule()}: give the tomograms, as with --set tomograms= (predict)")
            positions = positions * sides
        elif not centered:
            positions = positions * self.coordinate_pixel_size(pixel_size)[:, None]
        shifts = self.origins()
        if shifts is not None:
            positions = positions - np.einsum("nij,nj->ni", self._matrices(SUBTOMOGRAM_ANGLES), shifts)
        return positions, centered

    def origins(self) -> NDArray[np.float64] | None:
        """rlnOriginX/Y/Z in Å, (n, 3)."""
        for suffix in ("Angst", ""):
            labels = [f"rlnOrigin{axis}{suffix}" for axis in AXES]
            if not all(label in self.table for label in labels):
                continue
            shifts = np.stack([numbers(self.table, label, self.path) for label in labels], axis=1)
            if suffix or not shifts.any():
                return shifts
            sizes = self.image_voxel_size()
            if sizes is None:
                raise InputError(f"{self.path} has shifts in pixels (rlnOriginX), but does not state the pixel's size: add the column rlnPixelSize")
            return shifts * sizes[:, None]
        return None

    def _matrices(self, labels: tuple[str, ...]) -> NDArray[np.float64]:
        if not all(label in self.table for label in labels):
            return np.broadcast_to(np.eye(3), (len(self), 3, 3))
        return rotations_from_angles(np.stack([numbers(self.table, label, self.path) for label in labels], axis=1))

    def rotations(self) -> NDArray[np.float64] | None:
        """Matrices particle -> tomogram, (n, 3, 3), acting on (x, y, z); None where the file has no angles."""
        if not any(set(labels) <= set(self.table.columns) for labels in (ANGLES, SUBTOMOGRAM_ANGLES)):
            return None
        return self._matrices(SUBTOMOGRAM_ANGLES) @ self._matrices(ANGLES)

    def tilt_ranges(self) -> NDArray[np.float64] | None:
        """Lowest and highest tilt of each particle's tomogram, degrees, (n, 2); None unless the tomograms' tables state the tilts of all."""
        names, tables = self.tomogram_names, self.tilts
        ranges = {name: extreme_tilts(tables[name]) for name in dict.fromkeys(names or ()) if name in tables}
        askew = [name for name, found in ranges.items() if found is None and BEAM in tables[name].rows]
        if askew:
            what = "the projection matrices of %s (%d tomograms in all) are not of tilts about y with the beam along z, as triptych expects them"
            logger.warning(f"{what}: look with `triptych info` how the tomogram lies", askew[0], len(askew))
        if names is None or any(ranges.get(name) is None for name in names):
            return None
        return np.array([ranges[name] for name in names])

    @cached_property
    def tilts(self) -> dict[str, TiltTable]:
        """The tables of the tomograms' tilts, by the tomograms' names; those that no file has are left out."""
        return {} if self.tomograms is None else read_tilts(self.tomograms, self.tomogram_blocks, self.tomograms_file or self.path)

    @property
    def tables(self) -> list[Path]:
        """The files that belong to it: of the tomograms in which its particles are, and of the tilts of these."""
        tilts = [self.tilts[name].file for name in dict.fromkeys(self.tomogram_names or ()) if name in self.tilts]
        return [*([] if self.tomograms_file is None else [self.tomograms_file]), *tilts]

    @property
    def reconstructed(self) -> dict[str, str]:
        """Path of each tomogram as the particles' own table or one of tomograms (RELION 5) states it, by the tomogram's name."""
        if RECONSTRUCTED in self.table and self.tomogram_names is not None:
            return dict(zip(self.tomogram_names, self.table[RECONSTRUCTED].astype(str), strict=True))
        if self.tomograms is not None and {RECONSTRUCTED, "rlnTomoName"} <= set(self.tomograms.columns):
            return dict(zip(self.tomograms["rlnTomoName"].astype(str), self.tomograms[RECONSTRUCTED].astype(str), strict=True))
        return {}

    def frames_of_files(self) -> dict[str, Frame]:
        """The boxes of the tomograms that the file names, as their own headers state them; those that are not there or no use are left out."""
        places = {name: find_mrc(path, self.folders) for name, path in self.reconstructed.items()}
        found = {name: _stated_frame(place) for name, place in places.items() if place is not None}
        return {name: frame for name, frame in found.items() if frame is not None}

    def implied_centers(self) -> dict[str, NDArray[np.float64]]:
        """Å from the first voxel to the centre of each tomogram, where the particles state their coordinates from both, and agree."""
        pixel_size, names = self.values(UNBINNED_PIXEL_SIZES[0]), self.tomogram_names
        if pixel_size is None or names is None or not set(COORDINATES) | set(CENTERED) <= set(self.table.columns):
            return {}
        corner, centered = (np.stack([numbers(self.table, label, self.path) for label in labels], axis=1) for labels in (COORDINATES, CENTERED))
        centers = pd.DataFrame(corner * pixel_size[:, None] - centered).groupby(np.array(names))
        agree = (centers.max() - centers.min()).max(axis=1) <= pixel_size.max()
        return {str(name): center.to_numpy() for name, center in centers.mean()[agree].iterrows()}

    def tomogram_centers(self) -> NDArray[np.float64] | None:
        """Å from the first voxel to the tomogram's centre (N / 2 unbinned pixels), (n, 3); None unless a table states the sizes of all."""
        names, frames = self.tomogram_names, read_frames(self.tomograms, self.tomograms_file or self.path)
        if names is None or any(name not in frames for name in names):
            return None
        return np.stack([frames[name].center for name in names])


def _checked(sizes: NDArray[np.float64], label: str, path: Path) -> NDArray[np.float64]:
    check_voxel_sizes(sizes, f"{label} of {path}")
    return sizes


def rotations_from_angles(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices particle -> tomogram, (n, 3, 3), of rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees, (n, 3)."""
    matrices = Rotation.from_euler("ZYZ", np.atleast_2d(angles), degrees=True).inv().as_matrix()
    return np.asarray(matrices, dtype=np.float64)


def angles_from_rotations(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees, (n, 3), of matrices particle -> tomogram, (n, 3, 3).

    Tilt is in [0, 180]; where it is 0 or 180 only the sum or difference of the others is determined, and psi is 0.
    """
    return angles_from_matrices(np.swapaxes(rotations, -1, -2), "ZYZ")


def particle_columns(
    positions: NDArray[np.float64], rotations: NDArray[np.float64], frame: Frame
) -> dict[str, NDArray[np.float64]]:
    """Columns that say where particles are, for RELION 3 and 4 (pixels from the corner) and for RELION 5 (Å from the centre, N / 2).

    Parameters
    ----------
    positions : (n, 3), x, y, z in Å from the centre of voxel [0, 0, 0]
    rotations : (n, 3, 3), particle -> tomogram
    frame : box of the tomogram in the pixels to count in, those of the tilt series
    """
    tables = np.concatenate([positions / frame.voxel_size, positions - frame.center, angles_from_rotations(rotations)], axis=1)
    return dict(zip((*COORDINATES, *CENTERED, *ANGLES), tables.T, strict=True))


def optics_table(groups: Mapping[float, int], microscope: Mapping[str, float] | None = None) -> pd.DataFrame:
    """An optics group for each pixel size (Å) of tilt series: its number, and what else is the same in all of them."""
    rows = [
        {"rlnOpticsGroup": number, "rlnOpticsGroupName": f"opticsGroup{number}", **(microscope or {}), "rlnTomoTiltSeriesPixelSize": size}
        for size, number in groups.items()
    ]
    return pd.DataFrame(rows)


def tomogram_row(name: str, file: str, frame: Frame, binning: float = 1.0) -> dict[str, Any]:
    """A row of the table of tomograms.

    Parameters
    ----------
    file : its path, as seen from the table's folder
    frame : its box in the pixels that coordinates count; binning : its voxels over these pixels
    """
    return {
        "rlnTomoName": name,
        RECONSTRUCTED: file,
        "rlnTomoTiltSeriesPixelSize": frame.voxel_size,
        BINNING: binning,
        **{f"rlnTomoSize{axis}": size for axis, size in zip(AXES, frame.size, strict=True)},
    }


def class_table(names: Sequence[str]) -> pd.DataFrame:
    """What the numbers in tables and label maps stand for, from 1."""
    return pd.DataFrame({"rlnClassNumber": range(1, len(names) + 1), "triptychClass": list(names)})


def _particle_block(blocks: dict[str, Block], path: Path) -> str:
    for sign, of in ((M_COORDINATES[0], "M's particles of a species"), ("orig_x", "STOPGAP's motive list")):
        if tables_with(blocks, sign):
            raise InputError(f"{path} holds {of}, but a STAR file with RELION's columns was expected: triptych convert {path} OUT makes one of it")
    candidates = ["particles", *(name for name in blocks if name not in ("particles", "optics", "general"))]
    tables = tables_with(blocks)
    for name in (name for name in candidates if name in tables):
        if {"rlnImageName", *COORDINATES, *CENTERED} & set(tables[name]) or name in ("particles", ""):
            if tables[name].empty:
                raise InputError(f"{path} lists no particles (its table is empty): check the selection that wrote it")
            return name
    if tables_with(blocks, "rlnTomoTiltSeriesPixelSize"):
        raise InputError(f"{path} is a list of tomograms, but a STAR file of particles was expected")
    raise InputError(f"{path} holds no table of particles (a block data_particles with rlnImageName or coordinates): give the particles' STAR file")


def as_tables(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks, a single optics group, tomogram or particle as a table of one row where it is a list of pairs, as starfile before 0.5 wrote it."""
    return {name: pd.DataFrame([block]) if isinstance(block, dict) and SINGLE & set(block) else block for name, block in blocks.items()}


def tomogram_names(table: pd.DataFrame) -> list[str] | None:
    """Per particle, the name of its tomogram or micrograph as written; None without such a column."""
    label = next((label for label in ("rlnTomoName", "rlnMicrographName") if label in table), None)
    return None if label is None else [str(name) for name in table[label]]


def tomogram_table(blocks: Mapping[str, Block]) -> pd.DataFrame | None:
    """The table of tomograms among the blocks of a file, if there is one."""
    tables = tables_with(as_tables(blocks), "rlnTomoName")
    names = (name for name in ("global", "tomograms", "") if name in tables)
    return next((tables[name] for name in names if "rlnImageName" not in tables[name]), None)


def optimisation_set(blocks: Mapping[str, Block], path: Path, wanted: Literal["particles", "tomograms"]) -> dict[str, Any] | None:
    """The files that an optimisation set names, be it a list of pairs or, of RELION 5's pickers, a table of one row; None where it is none."""
    block = next((block for block in blocks.values() if set(SET_FILES.values()) & set(block)), None)
    if isinstance(block, pd.DataFrame):
        if len(block) != 1:
            raise InputError(f"{path} is an optimisation set of {len(block)} rows, but one was expected: give the STAR file of the {wanted} itself")
        block = {str(label): value for label, value in block.iloc[0].items()}
    if block is not None and SET_FILES[wanted] not in block:
        raise InputError(f"{path} is an optimisation set without {wanted} ({SET_FILES[wanted]}): give one that names them, or their STAR file")
    return block


def read_relion(path: Path | str) -> RelionFile:
    """Read a STAR file of particles, or the optimisation set that names one.

    The table of tomograms comes from the optimisation set, else from the same file, else from a ``tomograms.star``
    beside it, if there is one.
    """
    path = Path(path)
    blocks = read_star(path)
    folders = search_folders(path)
    tomograms_file: Path | None = None
    if (pairs := optimisation_set(blocks, path, "particles")) is not None:
        named = find_file(str(pairs["rlnTomoParticlesFile"]), folders)
        if named is None:
            missing = pairs["rlnTomoParticlesFile"]
            raise InputError(f"{path} names the particles {missing}, which do not exist: correct the name, or give the particles' STAR file itself")
        tomograms_file = find_file(str(pairs.get("rlnTomoTomogramsFile", "")) or "\0", folders)
        path, blocks, folders = named, read_star(named), search_folders(named)

    blocks = as_tables(blocks)
    name = _particle_block(blocks, path)
    optics = blocks.get("optics")
    if tomograms_file is None and name != "global" and (path.parent / TOMOGRAMS).is_file() and path.name != TOMOGRAMS:
        tomograms_file = path.parent / TOMOGRAMS
    others = {key: block for key, block in blocks.items() if key != name}
    tomogram_blocks = as_tables(read_star(tomograms_file)) if tomograms_file is not None and tomograms_file.is_file() else {}
    return RelionFile(
        path=path,
        blocks=blocks,
        block=name,
        optics=optics if isinstance(optics, pd.DataFrame) and not optics.empty else None,
        tomograms=tomogram_table(tomogram_blocks or others),
        folders=folders,
        tomogram_blocks=tomogram_blocks,
        tomograms_file=tomograms_file,
    )


def read_frames(table: pd.DataFrame | None, path: Path) -> dict[str, Frame]:
    """The tomograms' boxes, in unbinned pixels, where a table of tomograms states them (RELION writes -999 for "unknown", programs in Python nan)."""
    labels = [*(f"rlnTomoSize{axis}" for axis in AXES), "rlnTomoTiltSeriesPixelSize"]
    if table is None or not {"rlnTomoName", *labels} <= set(table.columns):
        return {}
    values = np.stack([numbers(table, label, path, may_lack=True) for label in labels], axis=1)
    for name, size in zip(table["rlnTomoName"], values[:, 3], strict=True):
        if size > 0:
            check_voxel_sizes(size, f"rlnTomoTiltSeriesPixelSize of {name} in {path}")
    return {
        str(name): Frame((round(x), round(y), round(z)), float(pixel_size))
        for name, (x, y, z, pixel_size) in zip(table["rlnTomoName"], values, strict=True)
        if all(value > 0 for value in (x, y, z, pixel_size))
    }


def frame_of_file(path: Path, voxel_size: float | None = None) -> Frame | None:
    """The box of a tomogram; `voxel_size` counts where the header states none. None where neither tells it."""
    header = read_header(path)
    size = stated_voxel_size(header) or voxel_size
    return None if size is None else Frame.of(header.shape, size)


def _stated_frame(path: Path) -> Frame | None:
    try:
        return frame_of_file(path)
    except InputError:  # whoever needs the tomogram itself will say what is wrong with it
        return None


def agrees(frame: Frame, center: NDArray[np.float64] | None, slack: float = 0.0) -> bool:
    """Whether the centre of a tomogram's box is where it is otherwise known to be, to a voxel, or to so many Å; or not known to be elsewhere."""
    return center is None or bool(np.abs(frame.center - center).max() <= max(frame.voxel_size, slack))
