"""MRC volumes (MRC2014, modes 0, 1, 2, 6, 12), plain or compressed with gzip or bzip2.

The header is not trusted: its dimensions are compared with the file's size before anything is allocated, and a
voxel size of 0 or 1 Å, which usually means "not set", is refused. Mode 0 is signed, as in mrcfile, but for files of IMOD whose flags say otherwise.
Axes in another order than x, y, z (mapc, mapr, maps) are transposed to ``[z, y, x]``.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from triptych.errors import InputError
from triptych.io.files import reserve
from triptych.io.outputs import output_file
from triptych.volume import Volume, can_be_voxel_sizes

logger = logging.getLogger(__name__)

SUFFIXES = (".mrc", ".rec", ".map", ".ccp4", ".st", ".mrcs")
COMPRESSIONS = (".gz", ".bz2")
HEADER_BYTES = 1024
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
LABEL = "triptych: the voxel size is stated"  # lets a voxel size of exactly 1 Å be believed when we read it back
VOLUME_STACK = 401  # space group number of a stack of volumes
IMOD_STAMP, IMOD_SIGNED, IMOD_OFFSET = 1146047817, 1, 152  # IMOD's imodStamp, bit of its imodFlags, and the byte at which both begin
LARGEST_VALUE = 1e30  # beyond it sums and squares overflow; data that are meant hold no such values
_PIECE = 1 << 20
_NOT_SET = "which usually means that it was never set"


@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says, axes in the order [z, y, x]."""

    shape: tuple[int, int, int]
    """Size of the data after transposition to [z, y, x]; a stack of volumes counts all its sections."""
    mode: int
    voxel_size: tuple[float, float, float]
    """x, y, z in Å, as stated: 0 where it was never set."""
    origin: tuple[float, float, float]
    """x, y, z in Å, of the centre of voxel [0, 0, 0]; from nxstart... where the origin fields are zero."""
    labels: tuple[str, ...]
    stored_shape: tuple[int, int, int]
    """Sections, rows, columns of the file."""
    transpose: tuple[int, int, int]
    """Axes of the file to take for z, y, x."""
    dtype: np.dtype[Any]
    """Type and byte order of the values in the file."""
    offset: int
    """Bytes before the values: 1024 and the extended header."""
    volumes: int
    """Number of volumes: 1, unless the file is a stack of volumes (space group 401)."""
    image_stack: bool
    """The header says that the sections are 2-D images (space group 0, mz = 1)."""
    compression: str
    """"", "gzip" or "bzip2"."""

    @property
    def data_bytes(self) -> int:
        sections, rows, columns = self.stored_shape
        return sections * rows * columns * self.dtype.itemsize


def is_mrc_name(path: Path | str) -> bool:
    """Whether a file name looks like an MRC file, compressed or not."""
    name = str(path).lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES)


def bare_stem(path: Path | str) -> str:
    """File name without ".mrc", ".rec.gz" and the like."""
    name = Path(path).name
    for suffix in (*COMPRESSIONS, *SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def mrc_files(folder: Path) -> list[Path]:
    """The MRC files in a folder, sorted, hidden ones left out."""
    return sorted(file for file in folder.iterdir() if is_mrc_name(file) and not file.name.startswith(".") and file.is_file())


def _compression(start: bytes) -> str:
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "bzip2" if start.startswith(b"BZh") else ""


def _open(path: Path) -> tuple[IO[bytes], str]:
    """Open a file for reading its decompressed bytes; the content tells the compression, not the name."""
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder, but an MRC file was expected")
    try:
        with path.open("rb") as file:
            compression = _compression(file.read(4))
        if compression == "gzip":
            return cast(IO[bytes], gzip.open(path, "rb")), compression
        return (cast(IO[bytes], bz2.open(path, "rb")) if compression else path.open("rb")), compression
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be opened ({error}): check the file and your rights to read it") from None


def _read(file: IO[bytes], count: int, path: Path) -> bytearray:
    """Up to ``count`` bytes. The buffer grows with what really comes, so that a lying header costs nothing."""
    buffer = bytearray()
    try:
        while len(buffer) < count:
            piece = file.read(min(_PIECE, count - len(buffer)))
            if not piece:
                break
            buffer += piece
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}): the file is damaged or truncated, copy or make it again") from None
    return buffer


def _byte_order(raw: bytes | bytearray) -> str | None:
    """ "<" or ">": the order in which mode and axes make sense, the machine stamp deciding where both do."""
    stamp = ">" if raw[212] == 0x11 else "<"
    for order in (stamp, "<" if stamp == ">" else ">"):
        head = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order), 1)[0]
        sizes = (int(head["nx"]), int(head["ny"]), int(head["nz"]))
        axes = sorted((int(head["mapc"]), int(head["mapr"]), int(head["maps"])))
        # 0..127 and 101 cover every mode that exists, so that an unsupported one gets its own message
        if min(sizes) > 0 and 0 <= int(head["mode"]) <= 127 and axes in ([1, 2, 3], [0, 0, 0]):
            return order
    return None


def _parse_header(raw: bytes | bytearray, path: Path, compression: str) -> MrcHeader:
    order = _byte_order(raw) if len(raw) == HEADER_BYTES else None
    if order is None:
        raise InputError(f"{path} is not an MRC file (its header makes no sense): give a file in MRC2014 format")
    head = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order), 1)[0]
    mode = int(head["mode"])
    if mode not in MODES:
        raise InputError(f"{path} has MRC mode {mode}, but triptych reads the modes {', '.join(map(str, MODES))}: convert the file, e.g. to mode 2")
    extended = int(head["nsymbt"])
    if extended < 0:
        raise InputError(f"{path} has an extended header of {extended} bytes: the file is damaged, make it again")

    # Axes of the file are (sections, rows, columns) = (maps, mapr, mapc); 1, 2, 3 stand for x, y, z.
    names = [int(head[key]) or fallback for key, fallback in (("maps", 3), ("mapr", 2), ("mapc", 1))]
    transpose = cast(tuple[int, int, int], tuple(names.index(axis) for axis in (3, 2, 1)))
    stored = (int(head["nz"]), int(head["ny"]), int(head["nx"]))
    starts = (int(head["nzstart"]), int(head["nystart"]), int(head["nxstart"]))
    voxel = tuple(float(head["cella"][axis]) / int(head[f"m{axis}"]) if int(head[f"m{axis}"]) > 0 else 0.0 for axis in "xyz")
    origin = tuple(float(head["origin"][axis]) for axis in "xyz")
    if not any(origin):
        origin = tuple(size * starts[names.index(axis)] for axis, size in zip((1, 2, 3), voxel, strict=True))
    if not np.isfinite(origin).all():
        origin = (0.0, 0.0, 0.0)
    depth = int(head["mz"])
    is_stack = int(head["ispg"]) == VOLUME_STACK and 0 < depth < stored[0] and stored[0] % depth == 0
    labels = [bytes(label).decode("ascii", "replace").strip("\0 ") for label in head["label"][: max(0, min(10, int(head["nlabl"])))]]
    return MrcHeader(
        shape=(stored[transpose[0]], stored[transpose[1]], stored[transpose[2]]),
        mode=mode,
        voxel_size=cast(tuple[float, float, float], voxel),
        origin=cast(tuple[float, float, float], origin),
        labels=tuple(labels),
        stored_shape=stored,
        transpose=transpose,
        dtype=np.dtype(order + ("u1" if _is_unsigned(raw, order, mode) else MODES[mode])),
        offset=HEADER_BYTES + extended,
        volumes=stored[0] // depth if is_stack else 1,
        image_stack=int(head["ispg"]) == 0 and depth == 1 and stored[0] > 1,
        compression=compression,
    )


def _is_unsigned(raw: bytes | bytearray, order: str, mode: int) -> bool:
    """Whether bytes are unsigned, as IMOD's flags say it (its mrc_format.txt)."""
    stamp, flags = np.frombuffer(raw, order + "i4", 2, IMOD_OFFSET)
    return mode == 0 and stamp == IMOD_STAMP and not flags & IMOD_SIGNED


def _check_size(header: MrcHeader, path: Path) -> None:
    """Compare what the header promises with the size of the file, before anything is allocated."""
    have = path.stat().st_size
    promised = header.offset + header.data_bytes
    # deflate cannot shrink more than 1032-fold; bzip2 has no such bound and is read until it ends
    least = {"": promised, "gzip": promised // 1100, "bzip2": 0}[header.compression]
    if have < least:
        raise InputError(f"{path} is truncated or its header wrong: {promised} bytes are promised, but the file has {have}: copy or make it again")
    if not header.compression and have > promised:
        _warn_of_rest(path, have - promised)


@lru_cache
def _warn_of_rest(path: Path, count: int) -> None:
    """Once for each file, however often it is opened."""
    logger.warning("%s is %d bytes longer than its header promises: the rest is not read", path, count)


def _start(path: Path) -> tuple[IO[bytes], MrcHeader]:
    """An open file, its header read and checked."""
    file, compression = _open(path)
    try:
        header = _parse_header(_read(file, HEADER_BYTES, path), path, compression)
        _check_size(header, path)
    except BaseException:
        file.close()
        raise
    return file, header


def read_header(path: Path | str) -> MrcHeader:
    """Read and check the header alone; an uncompressed file is also checked to be long enough for what it promises."""
    file, header = _start(Path(path))
    file.close()
    return header


def common_voxel_size(sizes: ArrayLike) -> float | None:
    """Å per voxel along all axes, if sizes along them are believable (neither tiny nor huge) and the same."""
    sizes = np.asarray(sizes, np.float64)
    size = float(np.mean(sizes))
    if not can_be_voxel_sizes(size) or np.ptp(sizes) > 1e-3 * size:
        return None
    return round(size, 6)


def stated_voxel_size(header: MrcHeader) -> float | None:
    """Å per voxel, if the header states a believable one, the same along the axes; exactly 1 is one only where we wrote it."""
    size = common_voxel_size(header.voxel_size)
    return None if size == 1 and LABEL not in header.labels else size


def usable_voxel_size(header: MrcHeader, given: float | None, path: Path, setting: str = "voxel_size") -> float:
    """Å per voxel: as given, else as the header states it; InputError, which names the setting, where neither will do."""
    if given is not None:
        return given
    size = stated_voxel_size(header)
    if size is not None:
        return size
    stated = " x ".join(f"{value:g}" for value in header.voxel_size)
    why = _NOT_SET if min(header.voxel_size) == max(header.voxel_size) and header.voxel_size[0] in (0.0, 1.0) else "which cannot be used"
    raise InputError(f"the header of {path} states a voxel size of {stated} Å, {why}: give the right one with --set {setting}=")


def are_valid(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are neither NaN nor infinite nor too large to be grey values."""
    if data.dtype.kind != "f":
        return np.ones(data.shape, dtype=bool)
    return np.asarray(np.abs(data) <= min(LARGEST_VALUE, float(np.finfo(data.dtype).max)))  # NaN compares as False


def check_values(data: NDArray[Any], path: Path | str) -> None:
    """InputError where a value is NaN, infinite or too large to be a grey value."""
    valid = are_valid(data)
    if not valid.all():
        count = int(valid.size - np.count_nonzero(valid))
        raise InputError(f"{path} holds {count} values that are NaN, infinite or beyond {LARGEST_VALUE:g}: make the file again without them")


def locate_volume(header: MrcHeader, number: int | None, path: Path) -> tuple[int, tuple[int, int, int]]:
    """Index of the first section and stored shape of volume ``number`` (from 1) of a file; InputError where it holds no such."""
    sections, rows, columns = header.stored_shape
    if number is None and header.volumes == 1:
        return 0, header.stored_shape
    if number is None:
        raise InputError(f"{path} is a stack of {header.volumes} volumes, but one volume was expected: name one as number@file in a STAR file")
    volumes = header.volumes
    if volumes == 1 and rows == columns and sections % rows == 0:
        volumes = sections // rows  # a stack of cubes that does not call itself one
    if not 1 <= number <= volumes:
        raise InputError(f"volume {number} of {path} was asked for, but the file holds {volumes}: correct the number before the @")
    depth = sections // volumes
    return (number - 1) * depth, (depth, rows, columns)


def read_mrc(path: Path | str, voxel_size: float | None = None, *, number: int | None = None, setting: str = "voxel_size") -> Volume:
    """Read a volume.

    Parameters
    ----------
    path : .mrc, .rec, .map, .ccp4, .st, .mrcs, also with .gz or .bz2
    voxel_size : Å; wins over the header. Needed where the header states 0 or 1 Å or differs between the axes.
    number : which volume of a stack of volumes, counted from 1; None: the file holds one
    setting : the setting that a message about the voxel size tells the user to set

    Returns
    -------
    Volume of float32 values, axes [z, y, x]

    Raises
    ------
    InputError
        Missing, damaged or truncated file, unknown mode, NaN or infinite values, no usable voxel size.
    """
    path = Path(path)
    file, header = _start(path)
    with file:
        size = usable_voxel_size(header, voxel_size, path, setting)
        first, stored = locate_volume(header, number, path)
        count = stored[0] * stored[1] * stored[2] * header.dtype.itemsize
        skip = header.offset - HEADER_BYTES + first * stored[1] * stored[2] * header.dtype.itemsize
        _skip(file, skip, header, path)
        raw = _read(file, count, path)
    if len(raw) < count:
        raise InputError(f"{path} is truncated: {count} bytes of values were expected, but {len(raw)} are there: copy or make it again")
    data = np.frombuffer(raw, header.dtype).reshape(stored).transpose(header.transpose)
    check_values(data, path)
    return Volume(np.ascontiguousarray(data, dtype=np.float32), size, header.origin)


def mmap_mrc(path: Path | str, voxel_size: float | None = None, *, setting: str = "voxel_size") -> Volume:
    """Map a file into memory: what is not looked at is not read.

    The values keep the file's own type and byte order, and are not checked for NaN. Only for uncompressed files.
    """
    path = Path(path)
    file, header = _start(path)
    file.close()
    if header.compression:
        raise InputError(f"{path} is compressed, but a tomogram is read in pieces: decompress it first")
    locate_volume(header, None, path)
    size = usable_voxel_size(header, voxel_size, path, setting)
    data = np.memmap(path, header.dtype, "r", header.offset, header.stored_shape).transpose(header.transpose)
    return Volume(cast(NDArray[np.float32], data), size, header.origin)


def read_sections(path: Path | str) -> Iterator[NDArray[Any]]:
    """The sections of a file as stored, one after another, (rows, columns) each: for files of any size."""
    path = Path(path)
    file, header = _start(path)
    with file:
        sections, rows, columns = header.stored_shape
        _skip(file, header.offset - HEADER_BYTES, header, path)
        count = rows * columns * header.dtype.itemsize
        for section in range(sections):
            raw = _read(file, count, path)
            if len(raw) < count:
                raise InputError(f"{path} is truncated: it ends in section {section + 1} of {sections}: copy or make it again")
            yield np.frombuffer(raw, header.dtype).reshape(rows, columns)


def _skip(file: IO[bytes], count: int, header: MrcHeader, path: Path) -> None:
    """Go ``count`` bytes on; a compressed file has to be read for it."""
    if not header.compression:
        file.seek(count, os.SEEK_CUR)
        return
    while count > 0 and (piece := _read(file, min(count, _PIECE), path)):
        count -= len(piece)


def _stored_type(data: NDArray[Any]) -> NDArray[Any]:
    """The values in the smallest MRC mode that holds them all."""
    kind = data.dtype.str[1:]
    if kind in MODES.values():
        return data
    if data.dtype.kind == "b" or (data.dtype.kind in "iu" and data.size and int(data.min()) >= 0 and int(data.max()) < 128):
        return data.astype("i1")
    if kind == "u1":
        return data.astype("u2")
    return data.astype("f4")


def _make_header(data: NDArray[Any], voxel_size: float, origin: tuple[float, float, float]) -> NDArray[np.void]:
    head = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    head["nz"], head["ny"], head["nx"] = head["mz"], head["my"], head["mx"] = data.shape
    head["mode"] = {code: mode for mode, code in MODES.items()}[data.dtype.str[1:]]
    head["cella"] = tuple(voxel_size * size for size in reversed(data.shape))
    head["cellb"] = (90.0, 90.0, 90.0)
    head["mapc"], head["mapr"], head["maps"] = 1, 2, 3
    # Section by section, so that a file mapped into memory is never in it as a whole.
    sums = np.sum([(s.sum(dtype=np.float64), np.square(s, dtype=np.float64).sum()) for s in data], axis=0) / data.size
    head["dmin"], head["dmax"] = min(s.min() for s in data), max(s.max() for s in data)
    head["dmean"], head["rms"] = sums[0], np.sqrt(max(0.0, sums[1] - sums[0] ** 2))
    head["ispg"], head["nversion"] = 1, 20141
    head["origin"] = origin
    head["map"], head["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    head["nlabl"] = 1
    head["label"][0] = LABEL.encode()
    return head


def write_mrc(path: Path | str, volume: Volume) -> None:
    """Write a volume with its voxel size and origin; the file appears under its name only when whole.

    Masks and labels (bool, small integers) become mode 0, float16 mode 12, int16 mode 1, uint16 mode 6, all else mode 2.
    The same volume always gives the same bytes.
    """
    data = _stored_type(np.asarray(volume.data))
    if not data.size:
        raise InputError(f"a volume of shape {data.shape} has no voxels: there is nothing to write to {path}")
    check_values(data, path)
    head = _make_header(data, volume.voxel_size, volume.origin)
    with output_file(path) as part, part.open("wb") as file:
        file.write(head.tobytes())
        file.write(np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes())


def type_for(dtype: str, largest: int) -> str:
    """A type of MRC's for numbers up to the largest: floats where the given one does not hold it, for MRC has no wider integers."""
    return dtype if np.can_cast(np.min_scalar_type(largest), dtype) else "f4"


@contextmanager
def new_mrc(
    path: Path | str, shape: tuple[int, int, int], dtype: str, voxel_size: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Iterator[NDArray[Any]]:
    """A volume (nz, ny, nx) to fill piece by piece, in the file itself; it appears under its name only when the block ends well.

    Parameters
    ----------
    dtype : one of MRC's: "i1", "i2", "u2", "f4", "f2"
    voxel_size : Å
    origin : Å, x, y, z of the centre of voxel [0, 0, 0]
    """
    with output_file(path) as part:
        data = np.memmap(part, np.dtype(dtype).newbyteorder("<"), "w+", HEADER_BYTES, shape)
        reserve(part)
        yield data
        head = _make_header(data, voxel_size, origin)
        data.flush()
        with part.open("r+b") as file:
            file.write(head.tobytes())
