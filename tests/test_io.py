"""MRC, STAR and manifests: against mrcfile and starfile, and against what is wrong with files in the world."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import zarr
from numpy.typing import NDArray

from triptych.config import OrientConfig, ReportConfig
from triptych.errors import InputError
from triptych.io.manifest import describe_input, hash_file, is_made, read_manifest, write_manifest
from triptych.io.mrc import bare_stem, mmap_mrc, read_header, read_mrc, read_sections, type_for, write_mrc
from triptych.io.outputs import output_file, output_folder
from triptych.io.star import read_star, write_star
from triptych.io.tomogram import open_tomogram
from triptych.settings import load_config
from triptych.volume import Volume


def make_data(dtype: str = "f4", shape: tuple[int, int, int] = (3, 4, 5)) -> NDArray[Any]:
    return (np.random.default_rng(0).random(shape) * 100 + 1).astype(dtype)


def patch(path: Path, offset: int, value: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(raw)


def int32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


# ------------------------------------------------------------------------------------------------------------------ MRC


@pytest.mark.parametrize(("dtype", "mode"), [("i1", 0), ("?", 0), ("u1", 0), ("i8", 0), ("i2", 1), ("f4", 2), ("f8", 2), ("u2", 6), ("f2", 12)])
def test_written_volumes_are_what_mrcfile_reads(tmp_path: Path, dtype: str, mode: int) -> None:
    data = make_data(dtype)
    write_mrc(tmp_path / "a.mrc", Volume(data, 7.5, (10.0, 20.0, -30.0)))
    assert mrcfile.validate(tmp_path / "a.mrc")
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert int(file.header.mode) == mode
        assert np.array_equal(file.data, data.astype(file.data.dtype))
        assert file.voxel_size.x == file.voxel_size.z == 7.5
    volume = read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(volume.data, data.astype("f4"))
    assert (volume.voxel_size, volume.origin) == (7.5, (10.0, 20.0, -30.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrc"]


@pytest.mark.parametrize(("stamp", "flags", "kind"), [(1146047817, 0, "u1"), (1146047817, 2, "u1"), (1146047817, 13, "i1"), (0, 0, "i1")])
def test_bytes_of_imod(tmp_path: Path, stamp: int, flags: int, kind: str) -> None:
    """Mode 0 is signed, unless IMOD's stamp is there and the bit of its flags that says so is not."""
    data = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    write_mrc(tmp_path / "a.mrc", Volume(data.view(np.int8), 10.0))
    patch(tmp_path / "a.mrc", 152, int32(stamp) + int32(flags))
    assert np.array_equal(read_mrc(tmp_path / "a.mrc").data, data.view(kind))
    assert np.array_equal(mmap_mrc(tmp_path / "a.mrc").data, data.view(kind))


def test_same_volume_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_mrc(tmp_path / name, Volume(make_data(), 10.0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_reads_what_mrcfile_writes(tmp_path: Path, dtype: str, order: str, suffix: str) -> None:
    path = tmp_path / f"a.mrc{suffix}"
    data = make_data(dtype)
    with mrcfile.new(path, compression={"": None, ".gz": "gzip", ".bz2": "bzip2"}[suffix]) as file:
        file.set_data(data.astype(data.dtype.newbyteorder(order)))
        file.set_extended_header(np.arange(25, dtype="i4"))
        file.voxel_size = 4.2
    volume = read_mrc(path)
    assert np.array_equal(volume.data, data.astype("f4"))
    assert volume.data.dtype == np.float32
    assert volume.voxel_size == pytest.approx(4.2)
    assert np.array_equal(np.stack(list(read_sections(path))), data)
    assert read_header(path).shape == (3, 4, 5)


def test_negative_bytes_stay_negative(tmp_path: Path) -> None:
    """Mode 0 is signed, as in mrcfile."""
    write_mrc(tmp_path / "a.mrc", Volume(np.full((2, 2, 2), -5, dtype=np.int8), 10.0))
    assert (read_mrc(tmp_path / "a.mrc").data == -5).all()


@pytest.mark.parametrize(("axes", "back"), [((1, 2, 3), (0, 1, 2)), ((3, 2, 1), (2, 1, 0)), ((2, 1, 3), (0, 2, 1)), ((2, 3, 1), (1, 2, 0))])
def test_axes_come_as_z_y_x(tmp_path: Path, axes: tuple[int, int, int], back: tuple[int, int, int]) -> None:
    """mapc, mapr, maps name the axes of columns, rows and sections; gemmi brings them to x, y, z too."""
    import gemmi

    stored = make_data(shape=(3, 4, 5))
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(stored)
        file.header.mapc, file.header.mapr, file.header.maps = axes
        sizes = dict(zip(axes, (5, 4, 3), strict=True))
        file.header.mx, file.header.my, file.header.mz = sizes[1], sizes[2], sizes[3]
        file.header.cella = tuple(2.0 * sizes[axis] for axis in (1, 2, 3))
        file.header.nxstart, file.header.nystart, file.header.nzstart = 7, 8, 9
    volume = read_mrc(tmp_path / "a.mrc")
    assert volume.voxel_size == 2
    assert np.array_equal(volume.data, stored.transpose(back))
    starts = dict(zip(axes, (7, 8, 9), strict=True))
    assert volume.origin == (2.0 * starts[1], 2.0 * starts[2], 2.0 * starts[3])
    with mrcfile.open(tmp_path / "a.mrc", "r+") as file:
        file.header.nxstart = file.header.nystart = file.header.nzstart = 0
    ccp4 = gemmi.read_ccp4_map(str(tmp_path / "a.mrc"), setup=True)
    assert np.array_equal(volume.data, np.array(ccp4.grid.array).transpose(2, 1, 0))
    assert mmap_mrc(tmp_path / "a.mrc").shape == volume.shape


def test_memory_map_reads_the_same(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", Volume(make_data("i2"), 10.0))
    volume = mmap_mrc(tmp_path / "a.mrc")
    assert isinstance(volume.data.base, np.memmap) or isinstance(volume.data, np.memmap)
    assert np.array_equal(volume.data, make_data("i2"))
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    with pytest.raises(InputError, match="decompress"):
        mmap_mrc(tmp_path / "a.mrc.gz")


def test_stacks_of_volumes(tmp_path: Path) -> None:
    data = np.random.default_rng(1).random((3, 4, 4, 4)).astype("f4")
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(data)
        file.voxel_size = 10
    assert read_header(tmp_path / "a.mrcs").volumes == 3
    assert np.array_equal(read_mrc(tmp_path / "a.mrcs", number=2).data, data[1])
    with pytest.raises(InputError, match="stack of 3 volumes"):
        read_mrc(tmp_path / "a.mrcs")
    with pytest.raises(InputError, match="volume 4"):
        read_mrc(tmp_path / "a.mrcs", number=4)


@pytest.mark.parametrize("stated", [0.0, 1.0, -3.0, float("nan"), 1e9])
def test_voxel_size_that_was_never_set(tmp_path: Path, stated: float) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(make_data())
        file.header.cella = (stated * 5, stated * 4, stated * 3)
    with pytest.raises(InputError, match="--set voxel_size="):
        read_mrc(tmp_path / "a.mrc")
    assert read_mrc(tmp_path / "a.mrc", 8.0).voxel_size == 8


def test_anisotropic_voxels_are_refused(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(make_data())
        file.voxel_size = (10, 10, 11)
    with pytest.raises(InputError, match="10 x 10 x 11"):
        read_mrc(tmp_path / "a.mrc")


def test_one_angstrom_that_we_wrote_is_meant(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", Volume(make_data(), 1.0))
    assert read_mrc(tmp_path / "a.mrc").voxel_size == 1


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    write_mrc(tmp_path / "a.mrc", Volume(make_data(shape=(16, 16, 16)), 10.0))
    raw = (tmp_path / "a.mrc").read_bytes()[:-100]
    path = tmp_path / f"b.mrc{suffix}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](raw))
    with pytest.raises(InputError, match="truncated"):
        read_mrc(path)
    if suffix:
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match="damaged or truncated"):
            read_mrc(path)


@pytest.mark.parametrize("compress", [False, True])
def test_a_lying_header_allocates_nothing(tmp_path: Path, compress: bool) -> None:
    import tracemalloc

    path = tmp_path / "a.mrc"
    write_mrc(path, Volume(make_data(), 10.0))
    for offset in (0, 4, 8):
        patch(path, offset, int32(2**31 - 1))
    if compress:
        path.write_bytes(gzip.compress(path.read_bytes()))
    tracemalloc.start()
    with pytest.raises(InputError, match="truncated"):
        read_mrc(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (12, int32(4), "mode 4"),
        (12, int32(77), "mode 77"),
        (0, int32(-5), "not an MRC file"),
        (0, int32(0), "not an MRC file"),
        (64, int32(9), "not an MRC file"),
        (92, int32(-8), "extended header"),
        (92, int32(2**30), "truncated"),
        (1024, np.float32("nan").tobytes(), "1 values that are NaN"),
        (1028, np.float32("inf").tobytes(), "NaN, infinite"),
        (1028, np.float32(3e38).tobytes(), "beyond 1e"),
    ],
)
def test_damaged_files(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    write_mrc(tmp_path / "a.mrc", Volume(make_data(), 10.0))
    patch(tmp_path / "a.mrc", offset, value)
    with pytest.raises(InputError, match=message):
        read_mrc(tmp_path / "a.mrc")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000, b"\x1f\x8b", b"\x1f\x8bgarbage that is no gzip", b"BZhgarbage"])
def test_files_that_are_no_mrc(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mrc").write_bytes(content)
    with pytest.raises(InputError):
        read_mrc(tmp_path / "a.mrc")
    with pytest.raises(InputError, match="does not exist"):
        read_mrc(tmp_path / "nothing.mrc")
    with pytest.raises(InputError, match="folder"):
        read_mrc(tmp_path)


def test_mutated_headers_are_read_or_refused(tmp_path: Path) -> None:
    """No other exception, whatever the bytes."""
    write_mrc(tmp_path / "a.mrc", Volume(make_data(), 10.0))
    raw = (tmp_path / "a.mrc").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        changed = bytearray(raw)
        for place in rng.integers(0, 224, 3):
            changed[place] = rng.integers(0, 256)
        (tmp_path / "b.mrc").write_bytes(changed)
        try:
            read_mrc(tmp_path / "b.mrc")
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_nothing_wrong_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        write_mrc(tmp_path / "a.mrc", Volume(np.full((2, 2, 2), np.nan, dtype=np.float32), 10.0))
    assert not list(tmp_path.iterdir())


def test_stems() -> None:
    assert [bare_stem(name) for name in ("x/TS_1.mrc", "a.rec.gz", "b_10.00Apx.mrc", "c.star")] == ["TS_1", "a", "b_10.00Apx", "c.star"]


# ------------------------------------------------------------------------------------------------------------- OME-Zarr


def scale(*values: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(values)}


def shift(*values: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(values)}


@pytest.mark.parametrize(
    ("unit", "of_level", "of_image", "size", "origin"),
    [
        ("nanometer", [scale(1, 1, 1), shift(3, 2, 1)], [], 10.0, (10.0, 20.0, 30.0)),
        ("angstrom", [scale(1, 1, 1)], [scale(13.48, 13.48, 13.48)], 13.48, (0.0, 0.0, 0.0)),
        ("nanometer", [scale(2, 2, 2), shift(1, 1, 1)], [scale(0.5, 0.5, 0.5), shift(7, 8, 9)], 10.0, (95.0, 85.0, 75.0)),
        (None, [scale(12, 12, 12)], [], 12.0, (0.0, 0.0, 0.0)),
        (None, [scale(1, 1, 1)], [], None, (0.0, 0.0, 0.0)),
        ("angstrom", [scale(1, 1, 1)], [], 1.0, (0.0, 0.0, 0.0)),
        ("angstrom", [scale(13.48, 13.480001, 13.48)], [], 13.48, (0.0, 0.0, 0.0)),
        ("angstrom", [scale(13, 13.48, 13.48)], [], None, (0.0, 0.0, 0.0)),
        ("angstrom", [], [], None, (0.0, 0.0, 0.0)),
        ("second", [scale(5, 5, 5)], [], None, (0.0, 0.0, 0.0)),
    ],
)
def test_frame_of_an_ome_zarr_image(
    tmp_path: Path, unit: str | None, of_level: list[Any], of_image: list[Any], size: float | None, origin: tuple[float, float, float]
) -> None:
    """The transformations of the level, then those of all levels; 1 in no unit is what writers put there that know nothing."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=np.zeros((4, 4, 4), np.float32))
    axes = [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in "zyx"]
    levels = [{"path": "0", "coordinateTransformations": of_level}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels, "coordinateTransformations": of_image}]}
    if size is None:
        with pytest.raises(InputError, match="does not say its voxel size"):
            open_tomogram(tmp_path / "a.zarr")
        assert open_tomogram(tmp_path / "a.zarr", 7.0).voxel_size == 7
    else:
        tomogram = open_tomogram(tmp_path / "a.zarr")
        assert tomogram.voxel_size == pytest.approx(size, rel=1e-6)
        assert tomogram.origin == pytest.approx(origin)


# ----------------------------------------------------------------------------------------------------------------- STAR


def make_blocks() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "general": {"rlnTomoSubTomosAre2DStacks": 0, "rlnComment": "two words"},
        "optics": pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnImagePixelSize": [1 / 3]}),
        "particles": pd.DataFrame(
            {
                "rlnTomoName": ["0012", "TS_02", "1e5"],
                "rlnImageName": ["data_1/a b.mrc", "data_2/it's.mrc", "000001@c.mrcs"],
                "rlnCoordinateX": rng.normal(size=3) * 1e-7,
                "rlnOriginXAngst": [0.1, np.nan, 1e300],
                "rlnOpticsGroup": [1, 1, 1],
                "note": ["", "x", "#1"],
                "triptychProbabilityMask": [0.25, 0.5, 1.0],
            }
        ),
    }


def test_star_round_trip_is_exact(tmp_path: Path) -> None:
    """Names stay text, numbers keep every bit, columns and blocks keep their order."""
    blocks = make_blocks()
    write_star(tmp_path / "a.star", blocks)
    again = read_star(tmp_path / "a.star")
    assert list(again) == list(blocks)
    assert again["general"] == blocks["general"]
    for name in ("optics", "particles"):
        pd.testing.assert_frame_equal(again[name], blocks[name], check_dtype=False, check_exact=True)
    write_star(tmp_path / "b.star", again)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()


def test_a_column_alone_may_hold_what_looks_like_a_block(tmp_path: Path) -> None:
    names = ["data_1.mrc", "data_", "loop_", "a.mrc"]
    write_star(tmp_path / "a.star", {"particles": pd.DataFrame({"rlnImageName": names}), "next": {"x": 1}})
    again = read_star(tmp_path / "a.star")
    assert list(again) == ["particles", "next"]
    assert list(again["particles"]["rlnImageName"]) == names


def test_names_are_text_and_probabilities_are_numbers(tmp_path: Path) -> None:
    """Also where every name looks like a number, or a class is called like a column of names."""
    labels = ("rlnTomoName", "rlnImageName", "rlnTomoReconstructedTomogram", "triptychClass")
    (tmp_path / "a.star").write_text("data_\nloop_\n" + "".join(f"_{label}\n" for label in (*labels, "triptychProbabilityMask")) + "1 2 3.0 70 0.5\n")
    table = read_star(tmp_path / "a.star")[""]
    assert isinstance(table, pd.DataFrame)
    assert table.iloc[0].tolist() == ["1", "2", "3.0", "70", 0.5]


def test_a_large_table_takes_little_more_memory_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "wide.star"
    values = np.random.default_rng(0).uniform(size=(20_000, 20)).round(8)
    write_star(path, {"particles": pd.DataFrame(values, columns=[f"triptychProbability{i}" for i in range(20)])})
    tracemalloc.start()
    table = read_star(path)["particles"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(table, values)
    assert most < 6 * path.stat().st_size  # a string for each value would take more


def test_starfile_reads_what_we_write(tmp_path: Path) -> None:
    blocks = make_blocks()
    blocks["particles"] = blocks["particles"].drop(columns=["note", "rlnImageName", "rlnTomoName"])
    write_star(tmp_path / "a.star", blocks)
    theirs = starfile.read(tmp_path / "a.star", always_dict=True)
    assert theirs["general"] == blocks["general"]
    pd.testing.assert_frame_equal(theirs["particles"], blocks["particles"], check_dtype=False)


def test_we_read_what_starfile_writes(tmp_path: Path) -> None:
    table = pd.DataFrame({"rlnTomoName": ["a", "b"], "rlnCoordinateX": [1.5, 2.25], "rlnClassNumber": [1, 2]})
    starfile.write({"particles": table, "general": {"x": 1}}, tmp_path / "a.star")
    ours = read_star(tmp_path / "a.star")
    pd.testing.assert_frame_equal(ours["particles"], table, check_dtype=False)
    assert ours["general"] == {"x": 1}


@pytest.mark.parametrize("name", ["ribosome_70s_real/particles", "ribosome_70s_tilt_stacks/particles", "ribosome_70s_tilt_stacks/tomograms"])
def test_real_files_are_read_as_starfile_reads_them(shared_data: Path, name: str) -> None:
    ours, theirs = (reader(shared_data / f"{name}.star") for reader in (read_star, lambda path: starfile.read(path, always_dict=True)))
    assert list(ours) == list(theirs)
    for block, table in ours.items():
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(table, theirs[block], check_dtype=False)
        else:
            assert table == theirs[block]


def test_relion_layout(tmp_path: Path) -> None:
    """Comments, blank lines, trailing blanks, a table without rows, one block straight after the other."""
    optics = "\n# version 50001\n\ndata_optics\n\nloop_ \n_rlnA #1\n_rlnB #2 \n  1  x \n\n# version 50001\n"
    (tmp_path / "a.star").write_text(f"{optics}data_particles\n\nloop_\n_rlnC #1\n\n\ndata_\n_rlnD  3.5 # why\n")
    blocks = read_star(tmp_path / "a.star")
    assert blocks["optics"].to_dict("list") == {"rlnA": [1], "rlnB": ["x"]}
    assert len(blocks["particles"]) == 0
    assert list(blocks["particles"].columns) == ["rlnC"]
    assert blocks[""] == {"rlnD": 3.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing\n\n", "empty"),
        ("hello\n", 'line 1 .* is "hello"'),
        ("data_a\nloop_\n_x #1\n_y #2\n1 2\n3\n", "line 6 .* holds 1 values, but its table has 2 columns"),
        ("data_a\nloop_\n_x #1\n1 2\n", "line 4 .* holds 2 values"),
        ("data_a\nloop_\n_x #1\n_x #2\n1 2\n", "occurs twice"),
        ("data_a\nloop_\n1 2\n", "without labels"),
        ("data_a\n_x 1\n_x 2\n", "one label and one value"),
        ("data_a\n_x 1\n\ndata_a\n_x 1\n", "twice"),
        ("data_a\nloop_\n_x #1\n_y #2\n1 \x00\n", "not a text file"),
    ],
)
def test_garbled_star(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(InputError, match=message):
        read_star(tmp_path / "a.star")


def test_star_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_star(tmp_path / "a.star")
    with pytest.raises(InputError, match="folder"):
        read_star(tmp_path)
    (tmp_path / "a.star").write_bytes(b"data_\n_x \xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_star(tmp_path / "a.star")


def test_text_that_star_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quotation"):
        write_star(tmp_path / "a.star", {"": {"x": "a 'b' \"c\""}})
    assert not list(tmp_path.iterdir())


def test_spaces_that_are_not_ascii_are_part_of_a_value(tmp_path: Path) -> None:
    """As for RELION, which takes such a path from where the project lies."""
    paths = ["研究\u3000データ/a.mrc", "Proben\u00a01/b.mrc", "c\u2028d.mrc"]
    rows = "".join(f"{path}\t{number}\r\n" for number, path in enumerate(paths))
    text = f"data_particles\r\n\r\nloop_\r\n_rlnImageName #1\r\n_rlnClassNumber #2\r\n{rows}\r\n"
    (tmp_path / "a.star").write_bytes(text.encode())
    table = read_star(tmp_path / "a.star")["particles"]
    assert table["rlnImageName"].tolist() == paths  # type: ignore[index,union-attr]
    assert table["rlnClassNumber"].tolist() == [0, 1, 2]  # type: ignore[index,union-attr]
    write_star(tmp_path / "b.star", {"particles": table})
    assert read_star(tmp_path / "b.star")["particles"]["rlnImageName"].tolist() == paths  # type: ignore[index,union-attr]


# ------------------------------------------------------------------------------------------------- outputs and manifest


def test_folder_appears_whole(tmp_path: Path) -> None:
    with output_folder(tmp_path / "deep" / "out") as part:
        (part / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:

    def fail(make: Callable[[Path], AbstractContextManager[Path]], name: str) -> None:
        with make(tmp_path / "out") as part:
            (part / name).write_text("1")
            raise error

    for make, name in ((output_folder, "a"), (output_file, "")):
        with pytest.raises(error):
            fail(make, name)
        assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").write_text("")
    with output_folder(tmp_path / "out") as part:
        assert not list(part.iterdir())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    (tmp_path / ".new.part").symlink_to(outside)
    with output_folder(tmp_path / "new"):
        pass
    assert (outside / "precious").exists()


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out") as part:  # an empty folder may be used
        (part / "a").write_text("1")
    with pytest.raises(InputError, match="exists already"), output_folder(tmp_path / "out"):
        pass
    with pytest.raises(InputError, match="is a file"), output_folder(tmp_path / "out" / "a"):
        pass
    with pytest.raises(InputError, match="cannot write"), output_folder(tmp_path / "out" / "a" / "b"):
        pass
    with pytest.raises(InputError, match="cannot write"), output_file("/proc/a.csv"):
        pass
    with output_file(tmp_path / "out" / "a") as part:
        part.write_text("2")
    assert (tmp_path / "out" / "a").read_text() == "2"


def test_manifest(tmp_path: Path) -> None:
    (tmp_path / "in.star").write_text("data_\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("12345")
    (tmp_path / "out").mkdir()
    write_manifest(tmp_path / "out", "report", ReportConfig(seed=7), [tmp_path / "in.star", tmp_path / "in"], 7, {"count": 3})
    content = read_manifest(tmp_path / "out")
    assert content["config"]["seed"] == content["seed"] == 7
    assert content["stage"] == "report"
    assert content["count"] == 3
    assert content["inputs"][0]["sha256"] == hash_file(tmp_path / "in.star")
    assert (content["inputs"][1]["entries"], content["inputs"][1]["bytes"]) == (1, 5)
    before = describe_input(tmp_path / "in")
    (tmp_path / "in" / "x").write_text("123456")
    assert describe_input(tmp_path / "in") != before
    with pytest.raises(ValueError, match="seed"):
        write_manifest(tmp_path / "out", "report", None, [], None, {"seed": 1})


def test_what_was_made_elsewhere_is_the_same(tmp_path: Path) -> None:
    """Where and how fast it is made is no difference, in groups of settings either."""
    arguments = {"predictions": Path("in")}
    write_manifest(tmp_path, "orient", load_config(OrientConfig, None, ["align.device=cpu", "workers=2"]), [], None, None, arguments)
    assert is_made(tmp_path, "orient", OrientConfig(), arguments)
    assert not is_made(tmp_path, "orient", load_config(OrientConfig, None, ["align.step=20"]), arguments)
    assert not is_made(tmp_path, "orient", OrientConfig(), {"predictions": Path("other")})
    assert not is_made(tmp_path, "discover", OrientConfig(), arguments)
    assert not is_made(tmp_path / "nothing", "orient", OrientConfig(), arguments)
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace('"rivals"', '"rivalry"'))
    assert not is_made(tmp_path, "orient", OrientConfig(), arguments)


def test_hash_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the example of FIPS 180-2
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "{", "[" * 100_000])
def test_manifest_that_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError):
        read_manifest(tmp_path)


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    write_manifest(tmp_path, "x", None, [], None)
    assert json.loads((tmp_path / "manifest.json").read_text())["triptych"]


def test_a_type_holds_its_numbers() -> None:
    assert type_for("u2", 65_535) == "u2"
    assert type_for("u2", 65_536) == "f4"  # as in a large crowded tomogram
