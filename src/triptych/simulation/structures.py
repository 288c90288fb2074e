"""Structures: PDB and mmCIF files and EM maps -> solvent-subtracted potential on a grid.

A structure file names its parts in ``NAME=FILE:key=value:...``, for example
``ribosome_70s=4v5d.cif.gz:assembly=none:chains=first16:model=1``; see `parse_structure_spec`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triptych.config import NONE_CLASS, UNKNOWN
from triptych.errors import InputError, counted, first_line
from triptych.fourier import interpolation_matrix
from triptych.io.mrc import read_header, read_mrc, stated_voxel_size
from triptych.io.star import probability_columns
from triptych.io.structure_files import structure_kind
from triptych.simulation.potential import Counts, count_atoms, excess_potential, soft_band_limit
from triptych.volume import Volume, check_voxel_sizes, soften

if TYPE_CHECKING:
    import gemmi

logger = logging.getLogger(__name__)

NOT_PARTICLES = ("membrane", "gold")
"""What label maps show besides the particles, numbered after them."""
RESERVED = (*NOT_PARTICLES, NONE_CLASS, UNKNOWN)
"""Names that mean something else in tables and label maps."""
PROTEIN_VOLUME = 1.21
"""Å^3 per Da that a folded protein fills (0.73 cm^3/g; Harpaz, Gerstein & Chothia 1994, Structure 2:641)."""
HYDRATED_VOLUME = PROTEIN_VOLUME + 0.35 * 1.66
"""Å^3 per Da with 0.35 g of bound water per g of protein (1.66 Å^3 per Da of water)."""
NAME_RULE = 'use up to 100 letters, digits, "_", "-" and "."'
MASK_REACH, MASK_EDGE = 15.0, 10.0
"""Å around the molecule of a map that are kept, and over which the rest fades."""
MARGIN = 2.5
"""Voxels between the outermost atom and the wall of the cube."""
LEAST_MASS = 0.1
"""kDa; what is lighter, an ion or a residue, is a mistake."""
LARGEST_SIDE = 256
"""Voxels; a finer grid would take gigabytes."""
MEAN_INSIDE = 0.57
"""Mean density within the contour of proteins at 10 Å, as atoms give it: maps are scaled to it."""
SCATTERED_RADIUS, MOST_SPACE = 300.0, 3e4
"""A molecule whose radius is above so many Å, and its cube above so many Å^3 per Da, has stray atoms: a thread of 2 MDa may be 7,000 Å long."""
MAP_RESOLUTION = 10.0
"""Å, where a map's molecule is told from its surroundings."""


@dataclass(frozen=True, eq=False)
class Structure:
    """One kind of particle.

    Attributes
    ----------
    name : str
        Class name.
    density : Volume
        A cube of even side, centred on the centre of mass at index ``n // 2``: electrostatic potential less that of the
        displaced ice, in units of `PROTEIN_CONTRAST`, so the inside of protein is about 1 and the solvent 0. Its origin lays it
        over the file that it was read from; nothing here depends on that.
    mass_kda : float
        Mass of the particle, hydrogens included, water excluded.
    contour : float
        ``density.data > contour`` is the hydrated molecule: mass x 1.79 Å^3/Da.
    source : str
        Where it comes from, for example ``PDB 4V5D``.
    """

    name: str
    density: Volume
    mass_kda: float
    contour: float
    source: str


@dataclass(frozen=True)
class StructureSpec:
    """What to read: a file and how; the fields are the arguments of `read_structure`."""

    path: Path
    name: str | None = None
    assembly: str | None = "auto"
    model: int = 1
    chains: tuple[str, ...] | int | None = None
    map_voxel_size: float | None = None
    map_contour: float | None = None
    mass_kda: float | None = None
    source: str | None = None


def _parse_chains(text: str) -> tuple[str, ...] | int:
    count = re.fullmatch(r"first(\d+)", text)
    return int(count[1]) if count else tuple(text.split("+"))


_SPEC_KEYS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "assembly": ("assembly", str),
    "model": ("model", int),
    "chains": ("chains", _parse_chains),
    "voxel_size": ("map_voxel_size", float),
    "contour": ("map_contour", float),
    "mass": ("mass_kda", float),
    "source": ("source", str),
}


def parse_structure_spec(text: str) -> StructureSpec:
    """``[NAME=]FILE[:key=value]...`` as a `StructureSpec`.

    Keys: ``assembly`` (auto, none or a name in the file), ``model`` (from 1), ``chains`` (``A+B+C``, or ``first16``),
    ``mass`` (kDa), ``source`` (free text), and for maps ``voxel_size`` (Å) and ``contour`` (grey value of the map).
    """
    head, *options = re.split(r":(?=[a-z_]+=)", text)
    name, equals, file = head.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", name):
        if Path(file).is_file() and not Path(head).is_file():
            raise InputError(f'a structure cannot be called {name[:100]!r}: {NAME_RULE}')
        name, file = "", head
    fields: dict[str, object] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in _SPEC_KEYS:
            raise InputError(f"{text!r} has the option {key!r}, but a structure takes {', '.join(_SPEC_KEYS)}")
        field, convert = _SPEC_KEYS[key]
        try:
            fields[field] = convert(value)
        except ValueError:
            raise InputError(f"{text!r} sets {key} to {value!r}, but it must be a number") from None
    return replace(StructureSpec(Path(file).expanduser(), name or None), **fields)  # type: ignore[arg-type]


def read_structure(
    path: Path | str,
    name: str | None = None,
    voxel_size: float = 10.0,
    assembly: str | None = "auto",
    model: int = 1,
    chains: Sequence[str] | int | None = None,
    map_voxel_size: float | None = None,
    map_contour: float | None = None,
    mass_kda: float | None = None,
    source: str | None = None,
) -> Structure:
    """Read coordinates (PDB, mmCIF) or an EM map (MRC, CCP4), also gzipped.

    Parameters
    ----------
    path : the file
    name : class name; default: the file's name
    voxel_size : Å, of the result
    assembly : "auto" (the file's first biological assembly where that has more atoms than the file itself, else the file as
        it is), "none" or None (the file as it is), or the name of an assembly of the file
    model : number of the model, from 1
    chains : names of the chains to keep (and their copies in an assembly), or how many of the first ones
    map_voxel_size : Å, where a map's header does not say
    map_contour : grey value of the map that bounds the molecule; default: found by itself
    mass_kda : overrides the sum of the atoms' masses, or the estimate from a map (see `structure_from_map`)
    source : where it comes from; default: the entry's identifier
    """
    path = Path(path)
    stem = re.sub(r"(\.\w{2,5}\d?)?(\.gz|\.bz2)?$", "", path.name)
    name = stem.lower() if name is None else name
    check_request(path, name, voxel_size, mass_kda)
    if structure_kind(path) == "map":
        refuse_options(path, "map", {"assembly": assembly not in ("auto", "none", None), "model": model != 1, "chains": chains is not None})
        structure = structure_from_map(_read_map(path, map_voxel_size), voxel_size, name, source or stem, map_contour, mass_kda)
    else:
        refuse_options(path, "file of coordinates", {"voxel_size": map_voxel_size is not None, "contour": map_contour is not None})
        entry, positions, counts = _read_atoms(path, assembly, model, chains)
        source = source or (f"PDB {entry.upper()}" if re.fullmatch(r"\d\w{3}", entry) else stem)
        structure = structure_from_atoms(positions, counts, voxel_size, name, source, mass_kda)
    logger.info("%s: %.0f kDa, %d^3 voxels of %g Å, from %s", name, structure.mass_kda, structure.density.shape[0], voxel_size, path)
    return structure


def check_request(path: Path, name: str, voxel_size: float, mass_kda: float | None) -> None:
    """InputError unless there is a file, a name that serves, and positive numbers."""
    check_class_names([name], reserved=(NONE_CLASS,))
    if not os.path.isfile(path):  # also False for what can be no name of a file
        raise InputError(f"{path} is not a file, but a structure (PDB, mmCIF or an EM map) was expected there: check the name")
    check_voxel_sizes(voxel_size, "the voxel size at which structures were asked for")
    if mass_kda is not None and not mass_kda > 0:
        raise InputError(f"the mass of {name} is given as {mass_kda} kDa, but it must be a positive number")


def check_class_names(names: Sequence[str], known: Iterable[str] = (), reserved: Sequence[str] = RESERVED) -> None:
    """InputError unless new classes may have these names: no other class has them, nor the same column of probabilities in STAR files."""
    taken = list(known)
    for name in names:
        if name in taken:
            raise InputError(f"there is a class {name!r} already: give the new one another name")
        if name in reserved:
            raise InputError(f"a class cannot be called {name!r}, for that has a meaning of its own: give it another name")
        if not re.fullmatch(r"\w[\w.-]{0,99}", name):
            raise InputError(f"a class cannot be called {name[:100]!r}: {NAME_RULE}")
        taken.append(name)
    probability_columns(list(dict.fromkeys([*taken, NONE_CLASS])))


def refuse_options(path: Path, kind: str, given: Mapping[str, bool]) -> None:
    """InputError where an option is given that a file of this kind cannot have."""
    for option in (name for name, is_given in given.items() if is_given):
        raise InputError(f"{path} is a {kind}, for which {option}= means nothing: leave that out")


# ---------------------------------------------------------------------------------------------------------------- atoms


def _read_atoms(
    path: Path, assembly: str | None, model: int, chains: Sequence[str] | int | None
) -> tuple[str, NDArray[np.float64], Counts]:
    """The entry's name, and places and elements of the chosen atoms."""
    try:
        molecule = _read_coordinates(path)
        return molecule.name, *count_atoms(_select(molecule, path, assembly, model, chains))
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError) as error:  # what gemmi raises, wherever it comes upon what it cannot use
        what = f"{path} cannot be read as PDB or mmCIF ({first_line(error)})"
        raise InputError(f"{what}: is it whole and of that kind? (Maps end in .mrc or .map)") from error


def _read_coordinates(path: Path) -> gemmi.Structure:
    import gemmi

    molecule = gemmi.read_structure(str(path), format=gemmi.CoorFormat.Detect)
    molecule.remove_alternative_conformations()
    if not len(molecule) or not molecule[0].count_atom_sites():
        raise InputError(f"{path} has no atoms, but coordinates in PDB or mmCIF format were expected")
    return molecule


def _select(molecule: gemmi.Structure, path: Path, assembly: str | None, model: int, chains: Sequence[str] | int | None) -> gemmi.FlatStructure:
    """The atoms of one model, some chains, one assembly."""
    import gemmi

    if not 1 <= model <= len(molecule):
        raise InputError(f"{path} has {len(molecule)} model(s), but model {model} was asked for")
    chosen = molecule[model - 1]
    records = {record.name: record for record in molecule.assemblies}
    if assembly == "auto":
        whole = _assemble(next(iter(records.values())), chosen, path) if records else chosen
        chosen = whole if whole.count_atom_sites() > chosen.count_atom_sites() else chosen
    elif assembly not in (None, "none"):
        if assembly not in records:
            have = f"only {', '.join(records)}" if records else "nor any other"
            raise InputError(f"{path} has no assembly {assembly!r}, {have}: say assembly=auto or none, or one that is there")
        chosen = _assemble(records[assembly], chosen, path)
    if chains is not None:
        names = list(dict.fromkeys(chain.name for chain in chosen))
        keep = names[:chains] if isinstance(chains, int) else list(chains)
        if missing := [name for name in keep if name not in names]:
            raise InputError(f"{path} has no chain {', '.join(missing)}, only {', '.join(names)}")
        if isinstance(chains, int) and not 1 <= chains <= len(names):
            raise InputError(f"{path} has {counted(len(names), 'chain')}, but the first {chains} were asked for")
        for name in set(names) - set(keep):
            chosen.remove_chain(name)
    chosen.remove_waters()
    chosen.remove_hydrogens()
    if not chosen.count_atom_sites():
        raise InputError(f"{path} holds no atoms heavier than hydrogen there, waters apart: check model, chains and assembly")
    single = gemmi.Structure()
    single.add_model(chosen)
    return gemmi.FlatStructure(single)


def _assemble(record: gemmi.Assembly, model: gemmi.Model, path: Path) -> gemmi.Model:
    import gemmi

    try:
        return gemmi.make_assembly(record, model, gemmi.HowToNameCopiedChain.Dup)
    except RuntimeError as error:
        raise InputError(f"assembly {record.name} of {path} cannot be built ({error}): say :assembly=none to use the file as it is") from error


def structure_from_atoms(
    positions: NDArray[np.float64], counts: Counts, voxel_size: float, name: str, source: str, mass_kda: float | None = None
) -> Structure:
    """The structure of atoms as `count_atoms` returns them; a given mass replaces theirs and sets the contour."""
    import gemmi

    unknown = [symbol for symbol in counts if gemmi.Element(symbol).c4322 is None]
    if unknown:
        raise InputError(f"{name} holds atoms of {unknown[0]}, of which it is not known how they scatter electrons: remove them from the file")
    weights = sum((gemmi.Element(symbol).weight * column for symbol, column in counts.items()), np.zeros(len(positions)))
    mass = float(weights.sum())
    centre = weights @ positions / mass
    centred = positions - centre
    radius = float(np.linalg.norm(centred, axis=1).max())
    if not radius <= max(SCATTERED_RADIUS, (MOST_SPACE * mass) ** (1 / 3)):  # nor NaN
        what = f"the atoms of {name} are {mass / 1e3:.3g} kDa, but lie up to {radius:,.0f} Å from their centre of mass"
        raise InputError(f"{what}: some of their coordinates are wrong")
    mass = mass if mass_kda is None else mass_kda * 1e3
    if mass < LEAST_MASS * 1e3:
        what = f"{name} has {counted(len(positions), 'atom')} of {mass / 1e3:.3g} kDa in all, but at least {LEAST_MASS:g} kDa was expected"
        raise InputError(f"{what}: check model, chains and assembly")
    size = _cube_side(radius, voxel_size)
    if size > LARGEST_SIDE:
        raise InputError(f"{name} takes {size} voxels of {voxel_size:g} Å along each side, more than {LARGEST_SIDE}: choose a larger voxel size")
    density = Volume(excess_potential(centred, counts, size, voxel_size), voxel_size, _origin(centre, size, voxel_size))
    return Structure(name, density, mass / 1e3, enclosing_level(density, mass * HYDRATED_VOLUME), source)


def _origin(centre: NDArray[np.float64], size: int, voxel_size: float) -> tuple[float, float, float]:
    """Where the first voxel of a cube lies whose index ``size // 2`` is at `centre` (x, y, z), Å."""
    x, y, z = (centre - size // 2 * voxel_size).tolist()
    return x, y, z


def _cube_side(radius: float, voxel_size: float) -> int:
    return 2 * math.ceil(radius / voxel_size + MARGIN)


def enclosing_level(density: Volume, volume: float) -> float:
    """The grey value above which voxels fill ``volume`` Å^3 (but always positive)."""
    values = np.sort(density.data, axis=None)[::-1]
    count = min(max(round(volume / density.voxel_size**3), 1), values.size - 1)
    return max(float(values[count - 1] + values[count]) / 2, 1e-3)


# ----------------------------------------------------------------------------------------------------------------- maps


def _read_map(path: Path, voxel_size: float | None) -> Volume:
    if voxel_size is not None:
        check_voxel_sizes(voxel_size, f"the voxel size that was said of {path}")
    elif stated_voxel_size(read_header(path)) is None:
        raise InputError(f"the header of {path} states no usable voxel size: say the right one, in Å, as {path.name}:voxel_size=...")
    volume = read_mrc(path, voxel_size)
    if volume.data.min() == volume.data.max():
        raise InputError(f"{path} has the same value everywhere ({volume.data.flat[0]:g}), but the map of a molecule was expected")
    return volume


def structure_from_map(
    volume: Volume, voxel_size: float, name: str, source: str, contour: float | None = None, mass_kda: float | None = None
) -> Structure:
    """The molecule in an EM map, made like one from atoms: cut out, centred, resampled and scaled.

    The molecule is the largest connected part above a level of the map at `MAP_RESOLUTION`: the level that encloses the
    hydrated volume of the given mass, or else Otsu's. That lies half-way up the blurred surface and so encloses about the
    hydrated volume too, which gives the mass: within 20 % of the truth for maps finer than `MAP_RESOLUTION`, up to a third too
    much for coarser ones. A given ``contour``, a grey value of the map itself, gives the mass by the
    volume inside it / 1.21 Å^3/Da.
    """
    step = max(volume.voxel_size, min(voxel_size, MAP_RESOLUTION) / 2)
    size = math.ceil(max(volume.shape) * volume.voxel_size / step)
    background, middle = float(np.median(volume.data)), np.array([n // 2 for n in volume.shape], float)
    centred = volume.with_data(volume.data - np.float32(background))
    smooth = resample_around(centred, middle, size, step, low_pass=MAP_RESOLUTION)
    if contour is None and ((smooth - smooth.mean()) ** 3).mean() < 0:
        logger.warning("%s: the molecule is darker than its surroundings, so the map is inverted", source)
        smooth, centred = -smooth, centred.with_data(-centred.data)
    if mass_kda is None and contour is not None:
        mass_kda = float((volume.data > contour).sum()) * volume.voxel_size**3 / PROTEIN_VOLUME / 1e3
    if mass_kda is not None and mass_kda <= 0:
        raise InputError(f"{source}: no voxel is above the contour {contour:g}, but the map goes up to {volume.data.max():g}: give a lower contour")
    level = _otsu_level(smooth) if mass_kda is None else enclosing_level(Volume(smooth, step), mass_kda * 1e3 * HYDRATED_VOLUME)
    inside = _largest_part(smooth > level)
    mass = float(inside.sum()) * step**3 / HYDRATED_VOLUME if mass_kda is None else mass_kda * 1e3
    if _reaches_wall(inside, step, volume):
        text = "%s: what was taken for the molecule (%.0f kDa) reaches the wall of the map, as in a tomogram or a map that is cut off: give the map "
        logger.warning(text + "of one whole molecule, or its contour or mass", source, mass / 1e3)

    centre = np.array(ndimage.center_of_mass(np.where(inside, smooth, 0)))
    radius = float(np.linalg.norm(np.argwhere(inside) - centre, axis=1).max()) * step
    sharp = resample_around(centred, middle, size, step, low_pass=max(voxel_size, volume.voxel_size)) * soften(inside, step, MASK_REACH, MASK_EDGE)
    side = _cube_side(radius, voxel_size)
    place = np.array(volume.origin) + (middle * volume.voxel_size + (centre - size // 2) * step)[::-1]
    density = Volume(resample_around(Volume(sharp, step), centre, side, voxel_size), voxel_size, _origin(place, side, voxel_size))
    bound = enclosing_level(density, mass * HYDRATED_VOLUME)
    scale = MEAN_INSIDE / float(density.data[density.data > bound].mean())
    return Structure(name, density.with_data(np.float32(scale) * density.data), mass / 1e3, scale * bound, source)


def _reaches_wall(inside: NDArray[np.bool_], step: float, volume: Volume) -> bool:
    """Whether a molecule, on a grid around the middle of a map, reaches one of the map's outermost planes."""
    for axis, n in enumerate(volume.shape):
        walls = inside.shape[axis] // 2 + (np.array([1, n - 2]) - n // 2) * volume.voxel_size / step  # one voxel within, where filters leave more
        planes = np.clip(np.round(walls), 0, inside.shape[axis] - 1).astype(int)
        if inside.take(planes, axis).any():
            return True
    return False


def resample_around(
    volume: Volume, centre: NDArray[np.float64], size: int, voxel_size: float, low_pass: float | None = None
) -> NDArray[np.float32]:
    """Fourier interpolation on a cube of ``size`` voxels that has ``centre`` at index ``size // 2``, 0 outside the volume.

    Parameters
    ----------
    volume : what to interpolate
    centre : index (z, y, x) in the volume, fractions allowed
    size : voxels along each side of the result
    voxel_size : Å, of the result
    low_pass : voxel size, Å, of the `soft_band_limit` to apply; it is a Gaussian and so separates into the three axes
    """
    def band_limit(waves: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ones_like(waves) if low_pass is None else soft_band_limit(waves / volume.voxel_size, low_pass)

    result = volume.data
    for axis, length in enumerate(volume.shape):
        places = centre[axis] + (np.arange(size) - size // 2) * voxel_size / volume.voxel_size
        matrix = interpolation_matrix(length, places, band_limit)
        matrix[(places < 0) | (places > length - 1)] = 0
        result = np.moveaxis(np.tensordot(matrix, result, (1, axis)), 0, axis)
    return np.ascontiguousarray(result, dtype=np.float32)


def _otsu_level(data: NDArray[np.float32]) -> float:
    """The grey value that parts the voxels best in two classes (Otsu 1979, IEEE Trans. SMC 9:62)."""
    counts, edges = np.histogram(data, 512)
    values = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * values)
    above = data.size - below
    between = (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2 * below * above
    return float(edges[1 + int(between.argmax())])


def _largest_part(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(inside, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
