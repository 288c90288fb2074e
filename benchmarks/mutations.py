"""Ways to spoil a valid file: bytes at random, and words, fields and values where a reader looks at them."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

Files = dict[str, bytes]
"""A file, or a folder of files, by relative name."""
Mutation = Callable[[np.random.Generator, bytes], bytes]

INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 401, 32767, 65535, 65536, 1 << 20, 1 << 28, (1 << 31) - 1, -(1 << 31))
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
WORDS = (
    "nan", "inf", "-inf", "1e400", "-1", "0", "1", "", "9" * 400, "9" * 5000, "1_000", "0x10", "01", "+", "-", ".", "e",
    '"', "'", '""', "#", "loop_", "data_", "_rlnImageName", "none", "null", "true", "~", "<<", "[" * 2000, "{{" * 900,
    "..", "../../escape", "../" * 12 + "escape", "{escape}", "{escape}/deeper", "a/../../../escape", "~/x", "/", "\\", "*", "?",
    "000001@x.mrc", "0@particle_0.mrc", "999999@particle_0.mrc", "%s%n", "é", "\u202e", "\x00", "\x1b[2J", "<script>", "a" * 300,
    "!!python/object/apply:os.system", "*anchor", "&anchor [*anchor]",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 0.5, -1e308, 1e308, float("nan"), float("inf"), 10**12, 10**400, [], {}, [[]], {"a": 1}, [1, 2], [10**9] * 3,
)  # fmt: skip
"""What a place in a JSON file may be made to hold, besides the words."""


def choose(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def a_slice(rng: np.random.Generator, data: bytes, longest: int = 64) -> slice[int, int, None]:
    start = int(rng.integers(len(data) + 1))
    return slice(start, min(len(data), start + int(rng.integers(1, longest + 1))))


# ----------------------------------------------------------------------------------------------------------------- bytes


def flip_bits(rng: np.random.Generator, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        spoiled[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(spoiled)


def truncate(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))]


def remove(rng: np.random.Generator, data: bytes) -> bytes:
    gone = a_slice(rng, data)
    return data[: gone.start] + data[gone.stop :]


def insert(rng: np.random.Generator, data: bytes) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def repeat(rng: np.random.Generator, data: bytes) -> bytes:
    again = a_slice(rng, data, 512)
    return data[: again.stop] + data[again] * int(rng.integers(1, 5)) + data[again.stop :]


def fill(rng: np.random.Generator, data: bytes) -> bytes:
    gone = a_slice(rng, data)
    return data[: gone.start] + bytes([choose(rng, (0, 255, 127, 128, 10, 32))]) * (gone.stop - gone.start) + data[gone.stop :]


def a_number(rng: np.random.Generator) -> bytes:
    """A number that is seldom meant, as it may stand in a header."""
    order = choose(rng, "<>")
    kind = choose(rng, "ifdhq")
    if kind in "fd":
        return struct.pack(order + kind, choose(rng, REALS))
    value = choose(rng, INTEGERS)
    return struct.pack(order + kind, value if kind != "h" else max(-32768, min(32767, value)))


def overwrite_number(rng: np.random.Generator, data: bytes) -> bytes:
    """In the first thousand bytes, where headers are, or anywhere."""
    reach = len(data) if rng.random() < 0.3 else min(len(data), 1024)
    at, number = 4 * int(rng.integers(max(1, reach // 4))), a_number(rng)
    return data[:at] + number + data[at + len(number) :]


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, remove, insert, repeat, fill, overwrite_number)


# ------------------------------------------------------------------------------------------------------------------ text


def a_word(rng: np.random.Generator) -> str:
    return str(choose(rng, WORDS))


def replace_word(rng: np.random.Generator, data: bytes) -> bytes:
    """A word, number or name becomes another."""
    text = data.decode("utf-8", "surrogateescape")
    found = list(re.finditer(r"[^\s,\[\]{}:\"']+", text))
    if not found:
        return data
    where = choose(rng, found)
    word = choose(rng, found).group() if rng.random() < 0.2 else a_word(rng)
    return (text[: where.start()] + word + text[where.end() :]).encode("utf-8", "surrogateescape")


def move_lines(rng: np.random.Generator, data: bytes) -> bytes:
    """A line is lost, doubled, or stands elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = int(rng.integers(len(lines)))
    line, kept = lines[at], lines[:at] + lines[at + 1 :]
    new = int(rng.integers(len(kept) + 1))
    return b"".join(choose(rng, (kept, [*lines[:at], line, *lines[at:]], [*kept[:new], line, *kept[new:]])))


def change_column(rng: np.random.Generator, data: bytes) -> bytes:
    """The same column of many lines gets the same word."""
    word, column, first = a_word(rng), int(rng.integers(8)), int(rng.integers(30))
    separator = "," if data.count(b",") > data.count(b"\n") else None
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines[first:], first):
        words = line.split(separator)
        if column < len(words):
            words[column] = word
            lines[number] = (separator or " ").join(words)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


TEXT: tuple[Mutation, ...] = (replace_word, replace_word, replace_word, move_lines, change_column)


# ------------------------------------------------------------------------------------------------------------------ JSON


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [place for key in keys for place in [(tree, key), *places(tree[key])]]


def change_json(rng: np.random.Generator, data: bytes) -> bytes:
    """A value becomes another, or its key is lost."""
    try:
        tree = json.loads(data)
    except ValueError:
        return flip_bits(rng, data)
    found = places(tree)
    for container, key in [choose(rng, found) for _ in range(int(rng.integers(1, 3))) if found]:
        if isinstance(container, dict) and rng.random() < 0.2:
            container.pop(key, None)
        else:
            container[key] = choose(rng, VALUES) if rng.random() < 0.7 else a_word(rng)
    return json.dumps(tree).encode("utf-8", "surrogateescape")


# --------------------------------------------------------------------------------------------------------------- headers


def change_mrc_field(rng: np.random.Generator, data: bytes) -> bytes:
    """A field of an MRC header gets another number."""
    if len(data) < HEADER_DTYPE.itemsize:
        return data
    head = np.frombuffer(data[: HEADER_DTYPE.itemsize], HEADER_DTYPE.newbyteorder("<")).copy()
    names = ["nx", "ny", "nz", "mode", "mx", "my", "mz", "mapc", "mapr", "maps", "ispg", "nsymbt", "nlabl", "nxstart", "nystart", "nzstart"]
    for name in rng.choice(names, int(rng.integers(1, 4)), replace=False):
        head[str(name)] = choose(rng, INTEGERS)
    if rng.random() < 0.3:
        head["cella"][choose(rng, "xyz")] = choose(rng, REALS)
    return bytes(head.tobytes()) + data[HEADER_DTYPE.itemsize :]


def change_length_of_header(rng: np.random.Generator, data: bytes) -> bytes:
    """The JSON at the start of a safetensors file, whose length stands before it."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.2 or length > len(data):
        return struct.pack("<Q", choose(rng, (0, 1, 8, 1 << 20, 1 << 40, (1 << 63) - 1))) + data[8:]
    head = change_json(rng, data[8 : 8 + length])
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


# ----------------------------------------------------------------------------------------------------------------- files


def mutations_of(name: str, data: bytes) -> tuple[Mutation, ...]:
    """What may be done to a file, after its name; the mutations of its bytes are always among them."""
    if data.startswith(b"\x1f\x8b"):
        return (*BYTES, *(inside(gzip.decompress, lambda raw: gzip.compress(raw, 1), name),) * 8)
    if data.startswith(b"BZh"):
        return (*BYTES, *(inside(bz2.decompress, bz2.compress, name),) * 8)
    if name.endswith((".mrc", ".map", ".rec", ".mrcs", ".st")):
        return (*BYTES, *(change_mrc_field,) * 8)
    if name.endswith(".safetensors"):
        return (*BYTES, *(change_length_of_header,) * 8)
    if name.endswith(".json") or (data[:1] == b"{" and data[-2:].strip()[-1:] == b"}"):
        return (*BYTES, *TEXT, *(change_json,) * 12)
    if b"\0" not in data[:512]:
        return (*BYTES, *TEXT * 3)
    return BYTES


def inside(unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], name: str) -> Mutation:
    """A mutation of what a compressed file holds."""
    plain = name.removesuffix(".gz").removesuffix(".bz2")

    def change(rng: np.random.Generator, data: bytes) -> bytes:
        raw = unpack(data)
        return pack(choose(rng, mutations_of(plain, raw))(rng, raw))

    return change


def mutate(rng: np.random.Generator, files: Files) -> Files:
    """The files with one of them spoiled, once or several times; or with one of them missing."""
    spoiled, name = dict(files), choose(rng, sorted(files))
    if len(files) > 1 and rng.random() < 0.05:
        del spoiled[name]
        return spoiled
    for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 5))):
        if spoiled[name]:
            try:
                spoiled[name] = choose(rng, mutations_of(name, spoiled[name]))(rng, spoiled[name])
            except (OSError, EOFError, ValueError, RecursionError, zlib.error):  # no longer what its name says
                spoiled[name] = flip_bits(rng, spoiled[name])
    return spoiled
