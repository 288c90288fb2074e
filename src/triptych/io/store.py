"""The dataset store: labelled subtomograms in a Zarr v3 group, one row per particle."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from triptych.config import Contrast, CtfCorrection, Smoothing, TiltOrder
from triptych.errors import InputError, first_line
from triptych.io.files import new_array
from triptych.io.zarr_files import CheckedArray, zarr_errors
from triptych.volume import MAX_BOX, can_be_voxel_sizes

FORMAT = "triptych-dataset"
LAYOUT = 2
BOXES_PER_CHUNK = 8
BOX_ARRAYS = {
    "subtomogram": ("float16", "signal_scale x signal + noise; the noise has standard deviation 1"),
    "signal": ("float16", "noise-free reconstruction of particle and neighbours; mean 0, standard deviation 1 for particles"),
    "mask": ("uint8", "1 in the particle"),
    "density": ("float16", "clean density in pose; protein about 1, background 0"),
}
ROW_ARRAYS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "label": ("int16", (), "index into class_names"),
    "tomogram": ("int32", (), "tomogram from which the particle was cut"),
    "position": ("float32", (3,), "x, y, z of the particle (for 'none': of the box) in the tomogram, Å from the centre of voxel [0, 0, 0]"),
    "rotation": ("float32", (3, 3), "matrix reference -> tomogram on (x, y, z)"),
    "shift": ("float32", (3,), "x, y, z of the particle from the centre of the box (index n // 2), Å"),
    "snr": ("float32", (), "var(signal) / var(noise) over the whole box, neighbours belonging to the signal"),
    "signal_scale": ("float32", (), "factor of the signal in the subtomogram"),
    "dose_snr": ("float32", (), "the SNR that the dose would give"),
    "defocus_um": ("float32", (), "mean underfocus of the tilt series"),
    "astigmatism_um": ("float32", (), "largest minus smallest defocus"),
    "dose_e_per_a2": ("float32", (), "total exposure"),
    "tilt_min": ("float32", (), "lowest tilt, degrees"),
    "tilt_max": ("float32", (), "highest tilt, degrees"),
    "tilt_step": ("float32", (), "angle between tilts, degrees"),
    "tilt_order": ("int8", (), ", ".join(f"{i} {name}" for i, name in enumerate(get_args(TiltOrder)))),
    "tilt_jitter": ("float32", (), "standard deviation of the error of each tilt angle, degrees"),
    "detector_mtf": ("float32", (), "detector's transfer function at the Nyquist frequency"),
    "shift_jitter": ("float32", (), "standard deviation of the misalignment, Å"),
    "b_factor": ("float32", (), "extra fall-off exp(-B k^2 / 4), Å^2"),
    "ctf_correction": ("int8", (), ", ".join(f"{i} {name}" for i, name in enumerate(get_args(CtfCorrection)))),
    "deconvolution_constant": ("float32", (), "c in CTF / (CTF^2 + c)"),
    "dose_weighting": ("int8", (), "1 if reconstructed with dose weighting"),
    "cosine_weighting": ("int8", (), "1 if each tilt was weighted by its cosine"),
    "smoothing": ("int8", (), ", ".join(f"{i} {name}" for i, name in enumerate(get_args(Smoothing)))),
    "low_pass": ("float32", (), "resolution of the low-pass filter on the tomogram, Å; 0 for none"),
    "ice_thickness": ("float32", (), "Å"),
    "voxel_size_factor": ("float32", (), "true size of everything over the stated one"),
    "cytosol": ("float32", (), "share of the volume between the particles that small proteins fill"),
    "occupancy": ("float32", (), "share of the ice's volume that particles fill"),
}
TILE_BOXES = {
    "tiles/subtomogram": ("float16", "signal_scale x signal + noise; the noise has standard deviation 1"),
    "tiles/signal": ("float16", "noise-free reconstruction; mean 0, in units of the tomogram's usual subtomogram"),
    "tiles/labels": ("uint16", "0 for background, else number in label_names + 1"),
    "tiles/centres": ("uint8", "1 in the voxel in which a particle has its centre"),
}
"""Boxes at random places of the tomograms, from which picking is learned. They lie in a group of their own: there are fewer or more of them."""
TILE_ROWS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "tiles/tomogram": ("int32", (), "tomogram from which the tile was cut"),
    "tiles/signal_scale": ("float32", (), "factor of the signal in the tile"),
}
PLACES: dict[str, tuple[str, tuple[int, ...], str]] = {
    "box_position": ("float32", (3,), "x, y, z of the middle of the box (index n // 2) in the tomogram, as those of position"),
    "tiles/position": ("float32", (3,), "x, y, z of the middle of the tile (index n // 2) in the tomogram"),
}
"""Kept of annotated tomograms, which may be so few that a part of one has to be held out."""
BOXES = BOX_ARRAYS | TILE_BOXES
ROWS = ROW_ARRAYS | TILE_ROWS
ARRAYS = (*BOXES, *ROWS, *PLACES)
"""Every array that a store may have."""
REQUIRED = ("subtomogram", "label", "tomogram")
ANEW = "write it anew with `triptych simulate` or `triptych cut`"


@dataclass(frozen=True, eq=False)
class Store:
    """An open dataset store.

    Attributes
    ----------
    voxel_size : Å; box_size : voxels; class_names : names of the labels; contrast : sign of the particles' grey values
    label_names : names of the numbers from 1 in the tiles' label maps; empty without tiles
    attributes : everything that the group's attributes say
    unpacked : folder of an uncompressed copy of the boxes (see `unpack`)
    """

    path: Path
    group: zarr.Group
    voxel_size: float
    box_size: int
    class_names: tuple[str, ...]
    contrast: Contrast
    attributes: Mapping[str, Any] = field(default_factory=dict)
    unpacked: Path | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.attributes.get("label_names", ())) if "tiles/labels" in self else ()

    def __len__(self) -> int:
        return len(self["subtomogram"])

    def __contains__(self, name: str) -> bool:
        return (self.path / name).is_dir()

    def array(self, name: str) -> zarr.Array[Any]:
        """The Zarr array of that name, to write to; InputError where the store has none."""
        if not (self.path / "zarr.json").is_file():
            raise InputError(f"{self.path} has disappeared while it was being read; put it back and give the command again")
        with zarr_errors(f"array '{name}' of {self.path} cannot be opened", ANEW):
            item = self.group.get(name)
        if not isinstance(item, zarr.Array):
            raise InputError(f"{self.path} has no array '{name}'; {ANEW}")
        return item

    def __getitem__(self, name: str) -> CheckedArray:
        """The array of that name, to read from."""
        return CheckedArray(self.array(name), self.path / name, ANEW, complete=True)

    def read_rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, in the order asked for; from the unpacked copy where there is one."""
        if self.unpacked is not None and name in BOXES:
            return np.asarray(np.load(unpacked_file(self.unpacked, name), mmap_mode="r", allow_pickle=False)[rows])
        return self[name].rows(rows)

    def write(self, name: str, first: int, values: NDArray[Any]) -> None:
        """Write rows of an array from row `first` on. Chunks of zeros are written too, so that a missing one is known to be lost."""
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.array(name)[first : first + len(values)] = values

    @property
    def particle_names(self) -> list[str]:
        return [particle_name(row) for row in range(len(self))]


def known_labels(store: Store, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Number in `class_names` of each row's class; -1 where it is not among them."""
    numbers = {name: number for number, name in enumerate(class_names)}
    translation = np.array([numbers.get(name, -1) for name in store.class_names], dtype=np.int64)
    return translation[np.asarray(store["label"][:], dtype=np.int64)]


def is_of_tiles(name: str) -> bool:
    """Whether an array has a row for each tile, instead of one for each particle."""
    return name.startswith("tiles/")


def particle_name(row: int) -> str:
    """Name of a row, as predictions use it."""
    return f"particle_{row:06d}"


def unpacked_file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace('/', '_')}.npy"


class Rows(NamedTuple):
    """Rows in all, and rows that are written together."""

    total: int
    per_part: int


def check_shift(max_shift: float, side: float) -> None:
    """InputError where particles may be shifted out of boxes of so many Å a side."""
    if max_shift >= side / 2:
        raise InputError(f"max_shift is {max_shift:g} Å, but less than half the box ({side:g} Å a side) was expected: set a smaller one")


def create_store(
    path: Path,
    particles: Rows,
    tiles: Rows,
    voxel_size: float,
    box_size: int,
    class_names: tuple[str, ...],
    attributes: Mapping[str, Any],
    names: Collection[str] = (*BOXES, *ROWS),
) -> Store:
    """An empty store with the arrays of some names; parts share no chunk, so that different processes may write them at once."""
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    frame: dict[str, Any] = {"voxel_size": voxel_size, "box_size": box_size, "class_names": list(class_names), "contrast": "bright"}
    group.attrs.update({"format": FORMAT, "layout": LAYOUT, **frame, **attributes})
    create_arrays(group, particles, box_size, [name for name in names if not is_of_tiles(name)])
    if tiles.total:
        create_arrays(group, tiles, box_size, [name for name in names if is_of_tiles(name)])
    return open_store(path, mode="r+")


def create_arrays(group: zarr.Group, rows: Rows, box_size: int, names: Sequence[str]) -> None:
    """Boxes are kept a few to a chunk: training reads them in random order, and one to a file would be too many files."""
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
    boxes_per_chunk = max(n for n in range(1, BOXES_PER_CHUNK + 1) if rows.per_part % n == 0)
    about = ROWS | PLACES | {name: (dtype, (box_size,) * 3, text) for name, (dtype, text) in BOXES.items()}
    for name in names:
        dtype, shape, text = about[name]
        chunk = boxes_per_chunk if name in BOXES else rows.per_part
        array = group.create_array(name, shape=(rows.total, *shape), dtype=dtype, chunks=(chunk, *shape), compressors=codec)
        array.attrs["description"] = text


def remove_leftovers(path: Path) -> None:
    """Remove the chunks that a killed process had half written; Zarr gives them temporary names."""
    for file in path.rglob("*.partial"):
        file.unlink(missing_ok=True)


def unpack(store: Store, folder: Path) -> Store:
    """The same store with an uncompressed copy of its boxes in `folder`, from which random rows are read many times faster.

    Copies only what is not there yet; each array appears under its name when it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (name for name in BOXES if name in store):
        target = unpacked_file(folder, name)
        if target.exists():
            continue
        array, part = store[name], target.with_suffix(".part")
        copy = new_array(part, array.dtype, array.shape)
        for first in range(0, len(copy), 128):
            copy[first : first + 128] = array[first : first + 128]
        copy.flush()
        part.rename(target)
    return replace(store, unpacked=folder)


def open_store(path: Path | str, mode: str = "r") -> Store:
    """Open a dataset store; InputError with the reason where it is none."""
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise InputError(f"{path} is not a Zarr v3 store (it has no zarr.json); give a store that `triptych simulate` or `triptych cut` wrote")
    with zarr_errors(f"{path} cannot be opened as a Zarr v3 group", ANEW):
        group = zarr.open_group(path, mode=mode)  # type: ignore[arg-type]
        attributes: dict[str, Any] = dict(group.attrs)
    if attributes.get("format") != FORMAT:
        how = "give a store that `triptych simulate` or `triptych cut` wrote"
        raise InputError(f"{path} is a Zarr store of another kind (its 'format' is not '{FORMAT}'); {how}")
    try:
        store = Store(
            path,
            group,
            float(attributes["voxel_size"]),
            int(attributes["box_size"]),
            tuple(str(name) for name in attributes["class_names"]),
            attributes["contrast"],
            attributes,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the attributes of {path} are incomplete ({first_line(error)}); {ANEW}") from error
    check_store(store)
    if mode == "r":
        check_complete(store)
    return store


def check_store(store: Store) -> None:
    """InputError unless the arrays agree with the attributes and with one another."""
    if store.contrast not in ("dark", "bright") or not can_be_voxel_sizes(store.voxel_size) or not store.class_names:
        raise InputError(f"the attributes of {store.path} are not valid (contrast, voxel_size, class_names); {ANEW}")
    if not 0 < store.box_size <= MAX_BOX:
        raise InputError(f"{store.path} has boxes of {store.box_size} voxels, but at most {MAX_BOX} were expected; {ANEW}")
    for name in REQUIRED:
        store[name]  # says so where it is missing
    count = len(store)
    if count == 0:
        raise InputError(f"{store.path} holds no particles; {ANEW}")
    tiles = len(store["tiles/labels"]) if "tiles/labels" in store else 0
    for name in (name for name in ARRAYS if name in store):
        shape = store[name].shape
        rows = tiles if is_of_tiles(name) else count
        wanted = (rows, *((store.box_size,) * 3 if name in BOXES else (ROWS | PLACES)[name][1]))
        if shape != wanted:
            raise InputError(f"array '{name}' of {store.path} has shape {shape}, but {wanted} was expected; {ANEW}")


def check_complete(store: Store) -> None:
    """InputError if a chunk of an array is missing, which Zarr would read as zeros."""
    for name in (name for name in ARRAYS if name in store):
        lost = store[name].chunks_lost()
        if lost:
            raise InputError(f"array '{name}' of {store.path} lacks {lost} of its chunks; copy it again or write it anew")
