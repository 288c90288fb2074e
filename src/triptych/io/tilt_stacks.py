"""2-D pseudo-subtomograms of RELION 5 and WarpTools: a stack of tilt images for each particle, made into a volume when it is read.

image (x, y) = the first two rows of the tilt's rlnTomoProjX/Y/Z, applied to the volume, which lies as the tomogram does. The defocus of
the tomogram's table is that of its centre; a particle above or below it has another (rlnTomoHand says which).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.mrc import check_values, read_sections
from triptych.io.relion import RelionFile
from triptych.io.star import number_lists
from triptych.io.tilts import DEFOCUS, PHASE_SHIFT, TiltTable, extreme_beams, has_phase_shift, mean_defocus
from triptych.io.transfers import OPTICS, check_range
from triptych.tilt_images import CTF_FLOOR, TiltOptics, reconstruct
from triptych.transfer import CtfTransfers
from triptych.volume import Volume

MATRIX = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
ASTIGMATIC = (*DEFOCUS, "rlnDefocusAngle")
_HOW = "export 3-D subtomograms instead (WarpTools: ts_export_particles --3d), or give the tomograms with --set tomograms="


@dataclass(frozen=True, eq=False)
class TiltStacks:
    """Reads one particle at a time."""

    paths: list[str]
    voxel_sizes: NDArray[np.float64]
    optics: list[TiltOptics]
    visible: list[NDArray[np.bool_]]
    """Which tilts of its tomogram show the particle. WarpTools writes all of them into a stack, RELION these only."""

    def read(self, index: int) -> Volume:
        path = Path(self.paths[index])
        images = np.stack(list(read_sections(path))).astype(np.float64)
        check_values(images, path)
        visible = self.visible[index]
        if len(images) == len(visible):
            images = images[visible]
        if len(images) != visible.sum() or images.shape[1] != images.shape[2]:
            raise InputError(f"{path} holds {images.shape} values (images, y, x), but {len(visible)} square images were expected: export it again")
        size = float(self.voxel_sizes[index])
        return Volume(reconstruct(images, self.optics[index], size), size)

    @property
    def tilt_ranges(self) -> NDArray[np.float64] | None:
        """Lowest and highest tilt of the images of each particle, degrees, (n, 2); None unless all of them are about y."""
        ranges = [extreme_beams(optics.projections[:, 2]) for optics in self.optics]
        return None if None in ranges else np.array(ranges, dtype=np.float64)

    @property
    def transfers(self) -> CtfTransfers | None:
        """What is left of the CTF, as if all images of a particle had their mean defocus; None where they are of several optics or a phase plate."""
        defocus = np.array([np.mean([optics.defocus_u, optics.defocus_v]) for optics in self.optics])
        stated = {(optics.voltage_kv, optics.spherical_aberration_mm, optics.amplitude_contrast) for optics in self.optics}
        if len(stated) > 1 or any(np.any(optics.phase_shift) for optics in self.optics):
            return None
        count = len(defocus)
        return CtfTransfers(defocus, ["deconvolve"] * count, np.full(count, CTF_FLOOR), *stated.pop(), origin="the defocus of the tilt images")

    def take(self, rows: NDArray[np.int64]) -> TiltStacks:
        """The reader of these rows only, in that order."""
        paths, optics, visible = ([values[row] for row in rows] for values in (self.paths, self.optics, self.visible))
        return TiltStacks(paths, self.voxel_sizes[rows], optics, visible)


def open_tilt_stacks(file: RelionFile, paths: list[str]) -> TiltStacks:
    """The stacks of a STAR file, whose tomograms' table must hold the projections of every tilt."""
    names, sizes = file.tomogram_names, file.image_voxel_size()
    missing = [name for name in names or ["of every particle"] if name not in file.tilts]
    if names is None or missing or sizes is None:
        what = f"no table of the tilts of {missing[0]} is in a tomograms.star beside them" if missing else "their pixel size is not stated"
        raise InputError(f"the images of {file.path} are 2-D tilt-stack pseudo-subtomograms, but {what}: {_HOW}")
    tilts = {name: file.tilts[name] for name in dict.fromkeys(names)}
    for name, table in tilts.items():
        lacking = [label for label in (*MATRIX, *ASTIGMATIC) if label not in table.rows]
        if lacking:
            raise InputError(f"the table of the tilts of {name} lacks the column {lacking[0]}, which 2-D tilt stacks need: {_HOW}")
    visible = _visible(file, [len(tilts[name].rows) for name in names])
    if not all(seen.any() for seen in visible):
        raise InputError(f"{file.path} says of a particle that no tilt shows it (rlnTomoVisibleFrames): leave such particles out")
    return TiltStacks(paths, sizes, _particle_optics(file, names, tilts, visible), visible)


def _visible(file: RelionFile, counts: list[int]) -> list[NDArray[np.bool_]]:
    label = "rlnTomoVisibleFrames"
    if label not in file.table:
        return [np.ones(count, dtype=bool) for count in counts]
    visible = [number_lists({row: text}, label, file.path)[0] > 0 for row, text in enumerate(file.table[label])]
    wrong = next((row for row, (seen, count) in enumerate(zip(visible, counts, strict=True)) if len(seen) != count), None)
    if wrong is not None:
        raise InputError(f"row {wrong + 1} of {file.path} tells of {len(visible[wrong])} tilts, its tomogram of {counts[wrong]}: export it again")
    return visible


def _particle_optics(
    file: RelionFile, names: list[str], tilts: dict[str, TiltTable], visible: list[NDArray[np.bool_]]
) -> list[TiltOptics]:
    values = {label: file.values(label) for label in (*OPTICS.values(), "rlnTomoHand", "rlnCtfDataAreCtfPremultiplied")}
    lacking = [label for label in OPTICS.values() if values[label] is None]
    if lacking:
        raise InputError(f"{file.path} does not state {lacking[0]}, which 2-D tilt stacks need: {_HOW}")
    where = str(file.path)
    voltage, aberration, contrast = (check_range(np.asarray(values[label]), label, where, may_be_given=False) for label in OPTICS.values())
    _check_defoci(tilts)
    hand, premultiplied = values["rlnTomoHand"], values["rlnCtfDataAreCtfPremultiplied"]
    matrices = {name: np.stack([table.lists(label, 3)[:, :3] for label in MATRIX], axis=1) for name, table in tilts.items()}
    defoci = {name: np.stack([table.numbers(label) for label in ASTIGMATIC]) for name, table in tilts.items()}
    plates = {name: table.numbers(PHASE_SHIFT) if has_phase_shift(table) else np.zeros(len(table.rows)) for name, table in tilts.items()}
    offsets = _offsets(file)
    optics = []
    for row, (name, seen) in enumerate(zip(names, visible, strict=True)):
        matrix, (u, v, angle) = matrices[name][seen], defoci[name][:, seen]
        depth = 0.0 if hand is None or offsets is None else hand[row] * matrix[:, 2] @ offsets[row]
        stated = float(voltage[row]), float(aberration[row]), float(contrast[row])
        multiplied = premultiplied is None or bool(premultiplied[row])
        optics.append(TiltOptics(matrix, u + depth, v + depth, angle, *stated, multiplied, plates[name][seen]))
    return optics


def _check_defoci(tilts: dict[str, TiltTable]) -> None:
    """InputError where the defocus of a tomogram's tilts is in another unit than Å."""
    for name, table in tilts.items():
        mean = mean_defocus(table, may_be_given=False)
        if mean is not None:
            check_range(np.array(mean), DEFOCUS[0], f"the tilts of {name} in {table.file}", may_be_given=False)


def _offsets(file: RelionFile) -> NDArray[np.float64] | None:
    """x, y, z in Å from the tomogram's centre to each particle, where the file tells."""
    try:
        positions, centered = file.coordinates()
    except InputError:  # no coordinates: the defocus of the tomogram's centre has to do
        return None
    centers = file.tomogram_centers()
    return positions if centered else None if centers is None else positions - centers
