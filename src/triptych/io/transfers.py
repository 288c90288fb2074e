"""What files say of the CTF of subtomograms: a dataset's columns, the CTF volumes that a STAR file names, or the defocus that it states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import AcquisitionConfig, CtfCorrection, PredictConfig
from triptych.errors import InputError
from triptych.io.links import CTF_VOLUME, find_file
from triptych.io.mrc import read_header, read_mrc
from triptych.io.relion import RelionFile
from triptych.io.stated import StatedTomogram
from triptych.io.store import Store
from triptych.io.tilts import DEFOCUS, PHASE_SHIFT, has_phase_shift, join_defoci, mean_defocus
from triptych.transfer import CtfTransfers, sample_ctf_volume

COLUMNS = ("defocus_um", "ctf_correction", "deconvolution_constant")
"""Of a store."""
TREATMENT, CONSTANT = "triptychCtfCorrection", "triptychDeconvolutionConstant"
"""Of a table of tomograms that `simulate-tomograms` wrote: what their reconstruction has made of the CTF."""
OPTICS = {"voltage_kv": "rlnVoltage", "spherical_aberration_mm": "rlnSphericalAberration", "amplitude_contrast": "rlnAmplitudeContrast"}
"""Columns of STAR files by what we call them."""
RANGES = {
    "rlnVoltage": (20, 3000, "kV"),
    "rlnSphericalAberration": (-1, 10, "mm"),
    "rlnAmplitudeContrast": (0, 1, "a share"),
    "rlnDefocusU": (100, 3e5, "Å, underfocus positive"),
}
"""What microscopes have; what is beyond is usually in another unit: V, per cent, µm."""
BESIDE = "the table beside the tomograms of {}"
"""Where a value was found that the particles' own files do not state."""
GIVEN = {"rlnVoltage": "voltage_kv", "rlnDefocusU": "defocus_um"}
"""Settings that count instead."""
TREATMENTS: dict[str, CtfCorrection] = {"untreated": "none", "phase_flipped": "phase_flip", "multiplied": "multiply"}
"""What a reconstruction has made of the CTF, by the words of `PredictConfig.deconvolve`."""


def stored_transfers(store: Store) -> CtfTransfers | None:
    """Of a store's particles; None where it does not say, as `cut` leaves it."""
    settings = store.attributes.get("config")
    acquisition = settings.get("acquisition") if isinstance(settings, Mapping) else None
    if not isinstance(acquisition, Mapping) or any(name not in store for name in COLUMNS):
        return None
    optics = {name: acquisition.get(name, usual) for name, usual in usual_optics().items()}
    defocus, treatment, constant = (np.asarray(store[name][:], np.float64) for name in COLUMNS)
    ways = get_args(CtfCorrection)
    if not all(isinstance(value, int | float) for value in optics.values()) or not set(treatment) <= set(range(len(ways))):
        return None
    return CtfTransfers(defocus * 1e4, [ways[int(number)] for number in treatment], constant, **optics)


def tabled_transfers(beside: Sequence[StatedTomogram | None]) -> CtfTransfers | None:
    """Of particles in tomograms that were simulated, near to focus, too; None where the tables beside these do not say it, or of several optics."""
    ways = get_args(CtfCorrection)
    rows = [{} if about is None else about.values for about in beside]
    codes = [row.get(TREATMENT) for row in rows]
    if not set(codes) <= set(range(len(ways))):
        return None
    defocus = _told_of_all(None if about is None else about.defocus for about in beside)
    optics = {name: {row.get(OPTICS[name], usual) for row in rows} for name, usual in usual_optics().items()}
    if defocus is None or any(len(values) > 1 for values in optics.values()):
        return None
    ctf = plain_ctf(defocus, {name: values.pop() for name, values in optics.items()})
    constants = np.array([row.get(CONSTANT, 0.0) for row in rows])
    return replace(ctf, correction=[ways[int(code or 0)] for code in codes], constant=constants, origin="the CTF that the tomograms' table states")


def check_treatment(config: PredictConfig, stated: CtfTransfers | None, source: Path) -> None:
    """InputError where particles are to be deconvolved that are said to have been treated otherwise."""
    if config.deconvolve == "nothing" or stated is None:
        return
    others = sum(way != TREATMENTS[config.deconvolve] for way in stated.correction)
    if others:
        what = f"{others} of the {len(stated.correction)} subtomograms of {source} are said not to be {config.deconvolve.replace('_', ' ')}"
        raise InputError(f"{what}, but deconvolve={config.deconvolve} takes all of them so: leave out deconvolve")


def usual_optics() -> dict[str, Any]:
    """What a microscope has where nothing is said of it."""
    return {name: AcquisitionConfig.model_fields[name].default for name in OPTICS}


def stated_ctf(
    file: RelionFile, defocus_um: float | None = None, voltage_kv: float | None = None, beside: Sequence[StatedTomogram | None] = ()
) -> CtfTransfers | None:
    """The CTF at the mean defocus of each particle's tilts, none of it undone; None where the file and those of its tomograms do not tell it.

    Parameters
    ----------
    defocus_um, voltage_kv : what counts instead of what the files say
    beside : what tables beside the tomogram of each particle say of it, which counts where the file itself does not tell
    """
    defocus = _stated_defocus(file, beside) if defocus_um is None else np.full(len(file), defocus_um * 1e4)
    if defocus is None:
        return None
    if _has_phase_plate(file, beside):
        raise InputError(f"{file.path} is of images with a phase plate ({PHASE_SHIFT}), which deconvolve does not allow for: leave out deconvolve")
    optics = usual_optics() | ({} if voltage_kv is None else {"voltage_kv": voltage_kv})
    for name, label in OPTICS.items():
        if name == "voltage_kv" and voltage_kv is not None:
            continue
        stated, where = file.values(label), str(file.path)
        if stated is None and any(about is not None and label in about.values for about in beside):
            stated = np.array([optics[name] if about is None else about.values.get(label, optics[name]) for about in beside])
            where = BESIDE.format(file.path)
        if stated is not None:
            optics[name] = float(check_range(stated, label, where)[0])
            if np.ptp(stated):
                raise InputError(f"{file.path} has particles of several values of {label}: predict them apart (triptych select --tomogram)")
    return plain_ctf(defocus, optics)


def ctf_to_undo(config: PredictConfig, stated: CtfTransfers | None, count: int, file: Path) -> CtfTransfers | None:
    """What is left of the CTF in so many particles of a file, if they are to be deconvolved; InputError where their defocus is not known.

    Parameters
    ----------
    stated : the CTF that the file itself tells, whatever is left of it
    """
    if config.deconvolve == "nothing":
        if config.defocus_um is not None or config.voltage_kv is not None:
            how = "set it to untreated, phase_flipped or multiplied, or leave these out"
            raise InputError(f"defocus_um and voltage_kv say how to deconvolve, but deconvolve is nothing: {how}")
        return None
    if config.defocus_um is not None:
        stated = replace(stated or plain_ctf(np.empty(count), usual_optics()), defocus=np.full(count, config.defocus_um * 1e4))
    if stated is None:
        where = "rlnDefocusU of the particles, or of the tilts of all their tomograms"
        raise InputError(f"deconvolve needs the defocus, and {file} does not tell it ({where}): give it with --set defocus_um=")
    stated = replace(stated, correction=[TREATMENTS[config.deconvolve]] * count)
    return stated if config.voltage_kv is None else replace(stated, voltage_kv=config.voltage_kv)


def plain_ctf(defocus: NDArray[np.float64], optics: Mapping[str, Any]) -> CtfTransfers:
    """The CTF at so many Å of defocus, (n,), none of it undone."""
    return CtfTransfers(defocus, ["none"] * len(defocus), np.zeros(len(defocus)), **optics, origin="the defocus that is stated")


def _stated_defocus(file: RelionFile, beside: Sequence[StatedTomogram | None]) -> NDArray[np.float64] | None:
    """Å, (n,): of the particles themselves, else the mean over the tilts of their tomograms; 0 throughout was never set."""
    own = pd.DataFrame({label: values for label in DEFOCUS if (values := file.values(label, may_lack=True)) is not None})
    if own.fillna(0).any(axis=None):
        return check_range(join_defoci(own, f"{file.path}, particle"), DEFOCUS[0], str(file.path))
    of_tilts = {name: mean_defocus(table) for name, table in file.tilts.items()}
    found, where = _told_of_all(of_tilts.get(name) for name in file.tomogram_names or [""]), str(file.tomograms_file or file.path)
    if found is None:
        found, where = _told_of_all(None if about is None else about.defocus for about in beside), BESIDE.format(file.path)
    return None if found is None else check_range(found, DEFOCUS[0], where)


def _told_of_all(values: Iterable[float | None]) -> NDArray[np.float64] | None:
    """The values, if there are any and none is missing."""
    told = list(values)
    return None if not told or None in told else np.array(told, np.float64)


def _has_phase_plate(file: RelionFile, beside: Sequence[StatedTomogram | None]) -> bool:
    """Whether a phase shift is stated of the particles, or of the tilts of one of their tomograms."""
    own, tilts = file.values(PHASE_SHIFT), [file.tilts[name] for name in set(file.tomogram_names or ()) if name in file.tilts]
    of_particles = own is not None and bool(own.any())
    return of_particles or any(map(has_phase_shift, tilts)) or any(about is not None and about.has_phase_shift for about in beside)


def check_range(values: NDArray[np.float64], label: str, where: str, may_be_given: bool = True) -> NDArray[np.float64]:
    """The values, one for each particle or a single one, of what is stated there; InputError where one is beyond what microscopes have.

    `may_be_given`: the settings that would count instead are open to the user.
    """
    low, high, unit = RANGES[label]
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        row = int(np.argmax(wrong))
        how = "correct the file" + (f", or give it with --set {GIVEN[label]}=" if may_be_given and label in GIVEN else "")
        which = f" (particle {row + 1})" if values.ndim else ""
        raise InputError(f"{label} of {where} is {values.flat[row]:g}{which}, but {low:g} to {high:g} was expected ({unit}): {how}")
    return values


@dataclass(frozen=True, eq=False)
class CtfVolumes:
    """A CTF volume for each of n particles, missing wedge and weights of the tilts included, as Warp and RELION's 3-D subtomograms have them.

    They are looked for only where they are needed.

    Attributes
    ----------
    voxel_sizes : (n,), Å, of the images; None: as the volumes' headers say
    rows : of the particles in the file, from 1; None: all of them, in its order
    """

    file: Path
    names: Sequence[str]
    folders: Sequence[Path]
    voxel_sizes: NDArray[np.float64] | None
    holds_wedge: bool = True
    origin: str = "the CTF volumes that the STAR file names"
    rows: Sequence[int] | None = None

    @cached_property
    def paths(self) -> list[Path]:
        known: dict[str, Path] = {}
        for row, name in zip(self.rows or range(1, len(self.names) + 1), self.names, strict=True):
            if name in known:
                continue
            found = find_file(name, self.folders)
            if found is None or not found.is_file():
                where = f"neither under {self.folders[0]} nor under a folder above it"
                how = "copy the CTF volumes there, or leave them aside with --set ctf=false"
                raise InputError(f"row {row} of {self.file} names the CTF volume {name}, which is {where}: {how}")
            if not known:  # one that cannot be used shows in the first already
                _find_side(read_header(found).shape, found)
            known[name] = found
        return [known[name] for name in self.names]

    def of(self, row: int, box_size: int, voxel_size: float) -> NDArray[np.float32]:
        """As `CtfTransfers.of`."""
        own = None if self.voxel_sizes is None else float(self.voxel_sizes[row])
        volume = read_mrc(self.paths[row], own)
        side = _find_side(volume.shape, self.paths[row])
        return sample_ctf_volume(volume.data[:side], volume.voxel_size, box_size, voxel_size)

    def take(self, rows: NDArray[np.int64]) -> CtfVolumes:
        """Those of these particles only, in that order."""
        sizes = None if self.voxel_sizes is None else self.voxel_sizes[rows]
        numbers = self.rows or range(1, len(self.names) + 1)
        return replace(self, names=[self.names[row] for row in rows], voxel_sizes=sizes, rows=[numbers[row] for row in rows])


def _find_side(shape: tuple[int, int, int], path: Path) -> int:
    """Sections of a CTF volume (nz, ny, nx): a cube, or half of one; RELION's _weights.mrc have the multiplicities of the terms behind these."""
    depth, side, width = shape
    if (depth, width) not in ((side, side), (side, side // 2 + 1), (2 * side, side // 2 + 1)):
        sides = " x ".join(map(str, shape[::-1]))
        what = "a CTF volume is a cube or half of one, or RELION's half with its multiplicities"
        raise InputError(f"{path} has {sides} voxels (x, y, z), but {what}: export it again, or say --set ctf=false")
    return side


Transfers = CtfTransfers | CtfVolumes


def named_transfers(file: RelionFile, voxel_sizes: NDArray[np.float64] | None) -> CtfVolumes | None:
    """Of the images that a STAR file lists; None where it names no CTF volumes."""
    names: Any = file.table.get(CTF_VOLUME)
    return None if names is None else CtfVolumes(file.path, [str(name) for name in names], file.folders, voxel_sizes)
