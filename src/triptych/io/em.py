"""EM files, as the TOM toolbox, AV3 and Dynamo have them: a header of 512 bytes, then the values.

The first byte says on what machine the file was written, and so the order of its bytes; the fourth what its values are. Sizes
are those of x, y and z. There is no voxel size that could be relied on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_bytes
from triptych.io.outputs import output_file

HEADER = np.dtype([("machine", "u1"), ("general", "u1"), ("unused", "u1"), ("type", "u1"), ("size", "i4", 3), ("rest", "V496")])
BYTE_ORDERS = {0: ">", 3: ">", 5: ">", 6: "<"}  # OS-9, SGI, Mac, PC
PC = 6
TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}


def read_em(path: Path | str) -> NDArray[Any]:
    """The values of a file, (nz, ny, nx), of the file's own type.

    Raises
    ------
    InputError
        Missing or truncated file, unknown machine, complex or unknown values.
    """
    path = Path(path)
    raw = read_bytes(path, "EM file")
    if len(raw) < HEADER.itemsize:
        raise InputError(f"{path} has {len(raw)} bytes, but an EM file has a header of 512: check the name")
    machine, kind = raw[0], raw[3]
    if machine not in BYTE_ORDERS or kind not in TYPES:
        raise InputError(f"{path} is no EM file of real numbers (its first byte is {machine}, its fourth {kind}): check the name, or write it anew")
    order = BYTE_ORDERS[machine]
    nx, ny, nz = (int(size) for size in np.frombuffer(raw, HEADER.newbyteorder(">" if order == ">" else "<"), 1)["size"][0])
    dtype = np.dtype(order + TYPES[kind])
    have, promised = len(raw) - HEADER.itemsize, nx * ny * nz * dtype.itemsize
    if min(nx, ny, nz) < 1 or have < promised:
        raise InputError(f"{path} is truncated or its header wrong: {nx} x {ny} x {nz} values are promised, but {have} bytes there: copy it again")
    return np.frombuffer(raw, dtype, nx * ny * nz, HEADER.itemsize).reshape(nz, ny, nx)


def write_em(path: Path | str, data: NDArray[Any]) -> None:
    """Write values (nz, ny, nx): whole numbers of 1, 2 or 4 bytes and doubles as they are, all else as 4-byte floats."""
    data = np.asarray(data)
    if data.ndim != 3 or not data.size:
        raise InputError(f"an array of shape {data.shape} cannot be written to {path}: an EM file has three axes and at least one value")
    kinds = {code: number for number, code in TYPES.items()}
    kind = kinds.get(data.dtype.str[1:], 5)
    head = np.zeros((), HEADER.newbyteorder("<"))
    head["machine"], head["type"], head["size"] = PC, kind, data.shape[::-1]
    with output_file(path) as part, part.open("wb") as file:
        file.write(head.tobytes())
        file.write(np.ascontiguousarray(data, "<" + TYPES[kind]).tobytes())
