"""MRC files and OME-Zarr images: subtomograms, tomograms, and what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np

from triptych.config import DEFAULT_CONTRAST, PredictConfig
from triptych.contrast import OTHER, Appearance, guess_contrast, guess_tomogram_contrast
from triptych.describing.description import Description
from triptych.errors import InputError, counted
from triptych.io.mrc import MrcHeader, are_valid, mmap_mrc, mrc_files, read_header, read_mrc, read_sections, stated_voxel_size
from triptych.io.source import open_particles
from triptych.io.stated import VOXEL_SIZE_TOLERANCE, StatedTomogram, find_stated
from triptych.io.tomogram import LARGEST_UNPACKED, open_tomogram
from triptych.missing_wedge import AXES, MissingWedge, find_missing_wedge
from triptych.volume import MAX_BOX, Volume, spread_boxes

LOOKED_AT = 20
"""Subtomograms from which the sign of the contrast is judged."""
ASSUMED_VOXEL_SIZE = 10.0
"""Å, where none is stated: the sign of the contrast depends on it a little."""
WIDEST_BOX, LARGEST_BOX = 800.0, 96
"""A cube is a subtomogram up to so many Å along a side, or so many voxels where their size is not known."""
THIN = 0.75
"""A tomogram is this much thinner along the beam than it is wide, at most."""
MOST_LABELS = 64


def is_subtomogram(shape: tuple[int, int, int], voxel_size: float | None) -> bool:
    """Whether a volume is more probably a box around one particle than a tomogram."""
    if len(set(shape)) > 1 or shape[0] > MAX_BOX:
        return False
    return shape[0] <= LARGEST_BOX if voxel_size is None else shape[0] * voxel_size <= WIDEST_BOX


def describe_mrc(path: Path) -> Description:
    header = read_header(path)
    nz, ny, nx = header.shape
    result = Description("MRC volume")
    if header.volumes > 1:
        result = Description(f"MRC stack of {header.volumes} volumes")
    elif header.image_stack:
        result = Description(f"MRC stack of {counted(nz, 'image')}")
        result.warn("The header calls this a stack of 2-D images, which triptych does not read: export 3-D subtomograms.")
    result.add("size", f"{nx} x {ny} x {nz} voxels (x, y, z)")
    _add_voxel_size(result, header.voxel_size, stated_voxel_size(header))
    result.add("origin", "{:g}, {:g}, {:g} Å (x, y, z)".format(*header.origin))
    result.add("values", f"mode {header.mode} ({header.dtype.newbyteorder('=')}{', big-endian' if header.dtype.byteorder == '>' else ''})")
    if header.transpose != (0, 1, 2):
        result.add("axes", "stored in another order than x, y, z; read as x, y, z")
    for label in filter(None, header.labels[:3]):
        result.add("label", label)
    finite = _add_grey_values(result, path)
    if header.volumes == 1 and not header.image_stack and finite:
        usable = stated_voxel_size(header)
        if is_subtomogram(header.shape, usable):
            add_contrast(result, [read_mrc(path, usable or ASSUMED_VOXEL_SIZE)])
        else:
            _add_tomogram(result, path, header)
    return result


def _add_voxel_size(result: Description, stated: tuple[float, float, float], usable: float | None) -> None:
    text = f"{usable:g}" if usable is not None else " x ".join(f"{size:g}" for size in stated)
    result.add("voxel size", f"{text} Å")
    if usable is not None:
        if not 1.5 <= usable <= 40:
            result.warn(f"A voxel size of {usable:g} Å is unusual for a tomogram: make sure that it is right.")
    elif len(set(stated)) == 1:
        why = "which usually means that it was never set" if stated[0] in (0, 1) else "which makes no sense"
        result.warn(f"The header states {stated[0]:g} Å per voxel, {why}: give the right one with --set voxel_size=.")
    else:
        result.warn(f"The voxel size {text} Å differs between the axes or makes no sense: give the right one with --set voxel_size=.")


def _add_grey_values(result: Description, path: Path) -> bool:
    """Range, mean and deviation, section by section; whether all values are finite."""
    low, high, total, squares, count, bad = math.inf, -math.inf, 0.0, 0.0, 0, 0
    for section in read_sections(path):
        finite = are_valid(section)
        if not finite.all():
            bad += int(section.size - finite.sum())
        values = section[finite].astype(np.float64)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            total, squares, count = total + float(values.sum()), squares + float((values**2).sum()), count + values.size
    if count:
        mean = total / count
        result.add("grey values", f"{low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {math.sqrt(max(squares / count - mean**2, 0)):.4g}")
        if low == high:
            result.warn("All values are the same: the volume is empty.")
    if bad:
        result.warn(f"{bad} values are NaN, infinite or absurdly large: triptych refuses such a volume, make it again without them.")
    return bad == 0 and count > 0


def add_contrast(result: Description, volumes: list[Volume]) -> None:
    """What particles look like, with how sure that is."""
    appearance = guess_contrast(volumes)
    if appearance.z_score:
        result.add("contrast", f"the middle looks {appearance}{doubt(appearance)}")


def doubt(appearance: Appearance) -> str:
    return "" if appearance.is_sure else ": too little to tell"


def describe_volumes(path: Path) -> Description:
    files = mrc_files(path)
    result = Description("folder of MRC files")
    result.add("files", len(files))
    headers = [read_header(file) for file in files]
    shapes = Counter(header.shape for header in headers)
    result.add("sizes", ", ".join(f"{x} x {y} x {z} ({count})" for (z, y, x), count in shapes.most_common(4)))
    sizes = Counter(stated_voxel_size(header) for header in headers)
    result.add("voxel size", ", ".join(f"{'not stated' if size is None else f'{size:g} Å'} ({count})" for size, count in sizes.most_common(4)))
    if None in sizes:
        result.warn(f"Of {counted(sizes[None], 'file')} the header states no usable voxel size: give it with --set voxel_size=.")
    if len(sizes) > 1:
        result.warn("The files state different voxel sizes: triptych reads each as it says, unless --set voxel_size= is given.")
    if not any(is_subtomogram(header.shape, stated_voxel_size(header)) for header in headers):
        _add_tomograms(result, files, headers)
    elif any(len(set(shape)) > 1 for shape in shapes):
        result.warn("Some boxes are no cubes, so these are no subtomograms that triptych could classify.")
    else:
        config = PredictConfig(voxel_size=None if None not in sizes else 1.0)
        add_contrast(result, open_particles(path, config, 1.0).sample(LOOKED_AT))
    return result


# ----------------------------------------------------------------------------------------------------------- tomograms


def _add_tomograms(result: Description, files: list[Path], headers: list[MrcHeader]) -> None:
    """How many of a folder's files are label maps, and what the first of the others looks like."""
    result.add("use", "tomograms, label maps or maps; subtomograms are smaller cubes")
    readable = [pair for pair in zip(files, headers, strict=True) if not (pair[1].compression and pair[1].data_bytes > LARGEST_UNPACKED)]
    are_labels = [holds_labels(open_grey_values(*pair)) for pair in readable]
    if any(are_labels):
        result.add("label maps or masks", f"{sum(are_labels)} of {len(files)}")
    first = next((pair for pair, is_labels in zip(readable, are_labels, strict=True) if not is_labels), None)
    if first is not None:
        result.add("first tomogram", first[0].name)
        add_looks(result, open_grey_values(*first))


def describe_zarr(path: Path) -> Description:
    """An OME-Zarr image, taken for a tomogram."""
    result = Description("OME-Zarr image")
    try:
        tomogram = open_tomogram(path)
        result.add("voxel size", f"{tomogram.voxel_size:g} Å")
    except InputError as error:
        result.warn(f"{error}.")
        tomogram = open_tomogram(path, ASSUMED_VOXEL_SIZE)
    nz, ny, nx = tomogram.shape
    result.add("size", f"{nx} x {ny} x {nz} voxels (x, y, z)")
    add_looks(result, tomogram)
    return result


def _add_tomogram(result: Description, path: Path, header: MrcHeader) -> None:
    """What the grey values of a tomogram tell, and whether a table of tomograms says otherwise."""
    result.add("use", "a tomogram, a label map or a map; subtomograms are smaller cubes")
    wedge = None
    if header.compression and header.data_bytes > LARGEST_UNPACKED:
        result.warn("It is too large to be looked at while it is compressed, and pick does not read it so: decompress it.")
    else:
        wedge = add_looks(result, open_grey_values(path, header))
    (stated,) = find_stated([path])
    if stated is not None:
        result.add("table", f"{stated.source} names this tomogram")
        compare_with_table(result, path.name, header, wedge, stated)


def open_grey_values(path: Path, header: MrcHeader) -> Volume:
    """A volume, mapped into memory where it is not compressed, with a voxel size that is assumed where none is stated."""
    size = stated_voxel_size(header) or ASSUMED_VOXEL_SIZE
    return read_mrc(path, size) if header.compression else mmap_mrc(path, size)


def add_looks(result: Description, tomogram: Volume) -> MissingWedge | None:
    """Sign of the contrast and missing wedge, as the grey values show them; the wedge is returned."""
    if holds_labels(tomogram):
        result.add("content", f"at most {MOST_LABELS} whole numbers: a label map or a mask")
        return None
    appearance = guess_tomogram_contrast(tomogram)
    if appearance.z_score:
        result.add("contrast", f"what is dense looks {appearance}{doubt(appearance)}")
    if appearance.is_sure and appearance.seen != DEFAULT_CONTRAST:
        other = OTHER[DEFAULT_CONTRAST]
        result.warn(f"What is dense looks {other}, but it is usually {DEFAULT_CONTRAST} in tomograms: say --set contrast={other} to pick and cut.")
    wedge = find_missing_wedge(tomogram)
    result.add(
        "geometry", "no missing wedge is seen: filled in, denoised, or no tomogram" if wedge is None else f"{wedge}, as the power spectrum shows"
    )
    _check_axes(result, tomogram.shape, wedge)
    return wedge


def holds_labels(volume: Volume) -> bool:
    """Whether the values are a few whole numbers."""
    seen: set[float] = set()
    for box in spread_boxes(volume.data, MOST_LABELS, 4):
        seen.update(np.unique(box).tolist())
        if len(seen) > MOST_LABELS or not all(value.is_integer() for value in seen):
            return False
    return True


def _check_axes(result: Description, shape: tuple[int, int, int], wedge: MissingWedge | None) -> None:
    """Warn where the beam is not along z, or the tilt axis not along y."""
    thinnest = int(np.argmin(shape))
    if wedge is not None and wedge.beam != 0:
        result.warn(
            f"The beam seems to be along {AXES[wedge.beam]}, but triptych expects it along z, which files keep as sections: turn the volume, "
            f"{'in IMOD with trimvol -rx' if wedge.beam == 1 else 'so that the axes x and z change places'}."
        )
    elif wedge is not None and wedge.tilt_axis != 1:
        result.warn("The tilt axis seems to be x, but triptych's model learned wedges around y: turn the volume by 90° about z (IMOD: rotatevol).")
    elif wedge is None and thinnest != 0 and shape[thinnest] < THIN * shape[0]:
        result.warn(
            f"It is thinnest along {AXES[thinnest]}, but a tomogram is thinnest along z, where the beam is, unless it was cropped: look whether "
            "y and z are exchanged, and if so turn it (IMOD: trimvol -rx)."
        )


def compare_with_table(result: Description, name: str, header: MrcHeader, wedge: MissingWedge | None, stated: StatedTomogram) -> None:
    """Warn where a tomogram's header or spectrum and a table of tomograms disagree."""
    own = stated_voxel_size(header)
    if own is not None and stated.voxel_size is not None and abs(own / stated.voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        result.warn(
            f"The header of {name} states {own:g} Å per voxel, but {stated.source} {stated.voxel_size:g} Å: correct the one that is wrong, "
            "or decide with --set tomogram_voxel_size= (predict) or voxel_size= (pick)."
        )
    if stated.shape is not None and any(abs(a - b) > 1 for a, b in zip(header.shape, stated.shape, strict=True)):
        sides, others = (" x ".join(map(str, shape[::-1])) for shape in (header.shape, stated.shape))
        result.warn(
            f"{name} has {sides} voxels (x, y, z), but {stated.source} speaks of {others}: look whether the binning is right or axes are "
            "exchanged, since coordinates from the centre depend on it."
        )
    if wedge is not None and stated.tilts is not None and not wedge.agrees(*stated.tilts):
        low, high = stated.tilts
        result.warn(
            f"{stated.source} gives {name} tilts from {low:g}° to {high:g}°, but its power spectrum shows about {wedge.tilt_min:.0f}° to "
            f"{wedge.tilt_max:.0f}°: look whether it belongs to that tilt series, and which tilts were used."
        )
