"""IMOD's models (.mod, binary): points in contours in objects. There is no place in them for angles or scores.

After IMOD's own specification (binspec) and MatTomo: coordinates are pixels of the volume that the model was made on, in x and y from
the corner of the first pixel, in z from its middle, so that the centre of the first voxel is at 0.5, 0.5, 0. All numbers are
big-endian. The chunk MINX holds the pixel size and the origin of that volume.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_bytes
from triptych.io.numbering import file_names
from triptych.io.outputs import output_file, output_folder
from triptych.particles import GIVE_PIXEL_SIZE, Frame, Particles

MAGIC = b"IMODV1.2"
FIRST_VOXEL = np.array([0.5, 0.5, 0.0])
MODEL = struct.Struct(">128s4iI4i6f5ff2i3f")
"""name, size, objects, flags, drawing (4), offset, scale, place and drawing (5; the compiler's ints, unused here), pixel size, its unit, ..."""
OBJECT = struct.Struct(">64s64siI2i3fi8B2i")
"""name, extra, contours, flags, axis, drawing, colour, radius, symbol and lines (8), meshes, surfaces"""
CONTOUR = struct.Struct(">iI2i")
MESH = struct.Struct(">iiI2h")
REFERENCE = struct.Struct(">18f")
"""MINX: old scale, translation and rotation, then the current ones."""

UNITS = {3: 1e13, 1: 1e10, -2: 1e8, -3: 1e7, -6: 1e4, -9: 10.0, -10: 1.0, -12: 0.01}
"""Å in each of the units of length."""
NANOMETRES = -9
HAS_ORIGIN, IS_FLIPPED = 1 << 14, 1 << 16 | 1 << 17
MODEL_FLAGS = 0xF400  # as 3dmod writes them: z from -0.5, several clipping planes, material as bytes, origin and angles right
OPEN, SCATTERED = 1 << 3, 1 << 9
LONGEST_NAME = 63
RADIUS = 5


@dataclass(frozen=True, eq=False)
class ImodObject:
    """Points of one kind."""

    name: str
    points: NDArray[np.float64]
    """(n, 3), x, y, z in voxels from the centre of the first one."""


@dataclass(frozen=True, eq=False)
class ImodModel:
    objects: list[ImodObject]
    voxel_size: float | None
    """Å; None where the model doesn't tell."""


@dataclass
class _Reading:
    """A model as far as it has been read."""

    path: Path
    raw: bytes
    place: int = 0
    objects: list[tuple[str, list[NDArray[np.float64]]]] = field(default_factory=list)
    reference: tuple[float, ...] | None = None

    def take(self, count: int) -> bytes:
        part = self.raw[self.place : self.place + count]
        if count < 0 or len(part) < count:
            raise InputError(f"{self.path} is truncated or damaged: {count} bytes were expected at byte {self.place}, but {len(part)} are there")
        self.place += count
        return part

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))


def read_imod(path: Path | str) -> ImodModel:
    """Every point of every contour of every object; meshes and how things are drawn are passed over."""
    path = Path(path)
    reading = _Reading(path, read_bytes(path, "binary IMOD model"))
    if reading.raw[:4] != MAGIC[:4]:
        is_text = reading.raw[:4] == b"imod"
        raise InputError(f"{path} is {'an IMOD model as text: make it binary with imodconv' if is_text else 'no IMOD model: check the name'}")
    reading.take(len(MAGIC))
    head = reading.unpack(MODEL)
    flags, pixel_size, unit = int(head[5]), float(head[21]), int(head[22])
    if flags & IS_FLIPPED:
        raise InputError(f"{path} was saved while its volume was shown with y and z swapped: save it again in 3dmod with the volume unswapped")
    while (name := reading.take(4)) != b"IEOF":
        _read_chunk(reading, name)
    shift, voxel_size = _reference(reading.reference, flags, path)
    if voxel_size is None and unit in UNITS and pixel_size > 0:
        voxel_size = round(pixel_size * UNITS[unit], 6)
    objects = [
        ImodObject(label, np.concatenate([np.zeros((0, 3)), *contours]) + shift - FIRST_VOXEL) for label, contours in reading.objects
    ]
    return ImodModel(objects, voxel_size)


def _read_chunk(reading: _Reading, name: bytes) -> None:
    if name == b"OBJT":
        label = reading.unpack(OBJECT)[0]
        reading.objects.append((label.split(b"\0")[0].decode("utf-8", "replace"), []))
    elif name == b"CONT":
        count = int(reading.unpack(CONTOUR)[0])
        points = np.frombuffer(reading.take(12 * count), ">f4").astype(np.float64).reshape(-1, 3)
        if not reading.objects or not np.isfinite(points).all():
            raise InputError(f"{reading.path} is damaged: a contour before byte {reading.place} is in no object or has points that are no numbers")
        reading.objects[-1][1].append(points)
    elif name == b"MESH":
        vertices, indices = (int(value) for value in reading.unpack(MESH)[:2])
        reading.take(12 * vertices + 4 * indices)
    else:
        content = reading.take(struct.unpack(">i", reading.take(4))[0])
        if name == b"MINX" and len(content) == REFERENCE.size:
            reading.reference = REFERENCE.unpack(content)


def _reference(values: tuple[float, ...] | None, flags: int, path: Path) -> tuple[NDArray[np.float64], float | None]:
    """Voxels from the part of the volume that the model was made on to the whole, and the voxel size in Å."""
    if values is None:
        return np.zeros(3), None
    origin, scale, translation = np.array(values[3:6]), np.array(values[9:12]), np.array(values[12:15])
    if (scale <= 0).any() or scale.max() - scale.min() > 1e-3 * scale.max():
        sides = " x ".join(f"{value:g}" for value in scale)
        raise InputError(f"{path} was made on voxels of {sides} Å, but cubes were expected: save it on a volume of such voxels")
    shift = (origin - translation) / scale if flags & HAS_ORIGIN else np.zeros(3)
    return shift, None if (scale == 1).all() else round(float(scale[0]), 6)


def write_imod(path: Path | str, objects: Sequence[ImodObject], voxel_size: float, size: tuple[int, int, int]) -> None:
    """Write scattered points, a contour for each object.

    Parameters
    ----------
    voxel_size : Å
    size : voxels of the volume along x, y, z
    """
    parts = [MAGIC, _model_header(len(objects), voxel_size, size)]
    for number, item in enumerate(objects):
        points = np.ascontiguousarray(item.points + FIRST_VOXEL, ">f4")
        name = item.name.encode("utf-8")
        if len(name) > LONGEST_NAME:
            raise InputError(f"the class {item.name} has a name of {len(name)} bytes, but an IMOD object's has at most {LONGEST_NAME}: shorten it")
        colour = [0.5 + 0.5 * np.cos(2 * np.pi * (number * 0.382 + third / 3)) for third in range(3)]
        parts += [b"OBJT", OBJECT.pack(name, b"", 1, OPEN | SCATTERED, 0, 1, *colour, RADIUS, 0, 3, 1, 1, 0, 0, 0, 0, 0, 0)]
        parts += [b"CONT", CONTOUR.pack(len(points), 0, 0, 0), points.tobytes()]
    reference = REFERENCE.pack(*[1.0] * 3, *[0.0] * 6, *[voxel_size] * 3, *[0.0] * 6)
    parts += [b"MINX", struct.pack(">i", len(reference)), reference, b"IEOF"]
    with output_file(path) as part, part.open("wb") as file:
        file.write(b"".join(parts))


def _model_header(objects: int, voxel_size: float, size: tuple[int, int, int]) -> bytes:
    drawing = (1, 0, 0, 255)  # draw it, movie mode, black and white level
    place = (0.0,) * 3 + (1.0,) * 3
    return MODEL.pack(b"triptych", *size, objects, MODEL_FLAGS, *drawing, *place, 0, 0, 0, 3, 128, voxel_size / 10, NANOMETRES, 0, 0, 0, 0)


# ---------------------------------------------------------------------------------------------------------- particles


def particles_from_imod(path: Path | str, voxel_size: float | None = None) -> Particles:
    """Particles of a model, whose name is that of the tomogram, or of a folder of such models; an object is a class if it has a name."""
    path = Path(path)
    files = sorted(path.glob("*.mod")) if path.is_dir() else [path]
    places, tomograms, classes, sizes = [np.zeros((0, 3))], [], [], []
    for file in files:
        model = read_imod(file)
        size = voxel_size if voxel_size is not None else model.voxel_size
        if size is None:
            raise InputError(f"{file} counts in pixels, but does not state their size: {GIVE_PIXEL_SIZE}")
        for number, item in enumerate(model.objects, 1):
            count = len(item.points)
            places.append(item.points * size)
            tomograms += [file.stem] * count
            classes += [item.name or (str(number) if len(model.objects) > 1 else "")] * count
            sizes += [size] * count
    if not sizes:
        raise InputError(f"{path} holds no points: give a model (.mod), or a folder of them, with points in it")
    table = pd.DataFrame(index=range(len(sizes)))
    return Particles(table, np.concatenate(places), tomograms=tomograms, classes=classes if any(classes) else None, pixel_sizes=np.array(sizes))


def write_imod_particles(path: Path | str, particles: Particles, pixel_sizes: NDArray[np.float64], frames: Mapping[str, Frame]) -> None:
    """Write a model, or a folder with one for each tomogram where the name does not end in ".mod"; the classes become objects.

    Parameters
    ----------
    pixel_sizes : (n,), Å per pixel of the volumes that the models are for
    frames : their boxes where they are known, which IMOD would like to know but does not need
    """
    path = Path(path)
    names = particles.tomograms or [path.stem] * len(particles)
    unique = set(names)
    if path.suffix.lower() == ".mod":
        if len(unique) > 1:
            raise InputError(f"the particles are in {len(unique)} tomograms, but {path} would be a model of one: name a folder, such as {path.stem}")
        _write_model(path, particles, pixel_sizes, frames.get(names[0]))
        return
    with output_folder(path) as folder:
        for name, file in file_names(names).items():
            rows = np.flatnonzero(np.array(names) == name)
            _write_model(folder / f"{file}.mod", particles.take(rows), pixel_sizes[rows], frames.get(name))


def _write_model(path: Path, particles: Particles, pixel_sizes: NDArray[np.float64], frame: Frame | None) -> None:
    assert particles.positions is not None
    size = float(pixel_sizes[0])
    points = particles.positions / size
    classes = np.array(particles.classes or [""] * len(particles))
    objects = [ImodObject(str(name), points[classes == name]) for name in dict.fromkeys(classes.tolist())]
    fits = frame is not None and abs(frame.voxel_size / size - 1) < 1e-3
    x, y, z = frame.size if frame is not None and fits else (max(1, int(np.ceil(value)) + 1) for value in points.max(axis=0))
    write_imod(path, objects, size, (x, y, z))
