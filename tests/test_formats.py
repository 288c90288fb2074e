"""Lists of particles in other programs' formats: every pair of formats, tiny files with known answers, and what is wrong with files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from triptych.cli import app
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io.angles import dynamo_from_rotations, rotations_from_dynamo, rotations_from_zxz, zxz_from_rotations
from triptych.io.convert import FORMATS, convert_particles, write_particles
from triptych.io.copick import clean_name
from triptych.io.em import read_em, write_em
from triptych.io.imod import ImodObject, read_imod, write_imod
from triptych.io.mrc import write_mrc
from triptych.io.numbering import are_numbers, number_names
from triptych.io.particle_lists import Known, guess_format, read_particles
from triptych.io.relion import frame_of_file, read_relion, rotations_from_angles, tomogram_row
from triptych.io.star import read_star, write_star
from triptych.particles import Frame, Particles
from triptych.volume import Volume

VOXEL = 7.5
SIZE = (960, 900, 300)
KNOWN = Known(voxel_size=VOXEL, input_voxel_size=VOXEL, tomogram_size=SIZE)
OUTPUT = {name: {"relion5": "a", "imod": "a", "copick": "a", "dynamo": "a.tbl", "em": "a.em", "csv": "a.csv"}.get(name, "a.star") for name in FORMATS}
TURN = Rotation.from_euler("ZXZ", [20, 50, -70], degrees=True).as_matrix()


def make_particles(count: int = 1000, seed: int = 1) -> Particles:
    """By tomogram and class, which is the order in which copick and IMOD keep them; numbers for names, as tables have them."""
    rng = np.random.default_rng(seed)
    tomograms, classes = np.sort(rng.integers(1, 4, count)), rng.integers(1, 3, count)
    rows = np.lexsort((classes, tomograms))
    return Particles(
        pd.DataFrame(index=range(count)),
        (rng.random((count, 3)) * SIZE * VOXEL)[rows],
        Rotation.random(count, random_state=seed).as_matrix(),
        tomograms=[f"{number}" for number in tomograms[rows]],
        classes=[f"{number}" for number in classes[rows]],
        scores=rng.random(count).round(6),
    )


def names(particles: Particles) -> list[str]:
    assert particles.tomograms is not None
    return [name.removesuffix(".tomostar") for name in particles.tomograms]


def assert_same(found: Particles, expected: Particles, *, angles: bool = True) -> None:
    """Positions within 0.01 Å, rotations within 0.01°."""
    assert found.positions is not None
    assert expected.positions is not None
    assert np.abs(found.positions - expected.positions).max() < 0.01
    assert names(found) == names(expected)
    assert found.classes == expected.classes
    if angles:
        assert found.rotations is not None
        assert expected.rotations is not None
        turns = Rotation.from_matrix(found.rotations) * Rotation.from_matrix(expected.rotations).inv()
        assert np.degrees(turns.magnitude()).max() < 0.01
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, FORMATS)))
def test_every_pair_of_formats(tmp_path: Path, first: str, second: str) -> None:
    """1,000 particles there, on, and read again: what was read is what was written."""
    particles = make_particles()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    write_particles(tmp_path / "first" / OUTPUT[first], particles, first, KNOWN)
    once = convert_particles(tmp_path / "first" / OUTPUT[first], tmp_path / "second" / OUTPUT[second], second, KNOWN)
    assert_same(once, particles, angles=first != "imod")
    twice = read_particles(tmp_path / "second" / OUTPUT[second], Known(input_voxel_size=VOXEL))
    assert_same(twice, particles, angles="imod" not in (first, second))


@pytest.mark.parametrize("name", FORMATS)
def test_reading_what_was_written_is_the_identity(tmp_path: Path, name: str) -> None:
    """Once written and read, nothing changes any more: every column, name and number."""
    path, again = tmp_path / OUTPUT[name], tmp_path / "again" / OUTPUT[name]
    write_particles(path, make_particles(50), name, KNOWN)
    first = convert_particles(path, again, name, Known(input_voxel_size=VOXEL))
    second = read_particles(again, Known(input_voxel_size=VOXEL))
    pd.testing.assert_frame_equal(first.table, second.table, check_exact=False, rtol=1e-6, atol=1e-6)
    assert_same(second, first, angles=name != "imod")
    assert second.pixel_sizes is None or np.allclose(second.pixel_sizes, VOXEL)


@given(st.lists(st.tuples(*[st.floats(-180, 180)] * 3), min_size=1, max_size=5))
def test_angles_are_those_of_the_matrices(angles: list[tuple[float, float, float]]) -> None:
    """ZXZ about fixed axes, checked by scipy; and back, where only a sum of angles is determined too."""
    zxz = np.array(angles)
    matrices = rotations_from_zxz(zxz)
    np.testing.assert_allclose(matrices, Rotation.from_euler("zxz", zxz, degrees=True).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotations_from_dynamo(zxz), Rotation.from_euler("zxz", zxz, degrees=True).inv().as_matrix(), atol=1e-9)
    np.testing.assert_allclose(rotations_from_zxz(zxz_from_rotations(matrices)), matrices, atol=1e-6)
    np.testing.assert_allclose(rotations_from_dynamo(dynamo_from_rotations(matrices)), matrices, atol=1e-6)
    assert (dynamo_from_rotations(matrices)[:, 1] >= 0).all()


# --------------------------------------------------------------------------------------------- files with known answers

TBL = "3 1 1 0.5 0 -1 {} 0.25 0 0 1 -60 60 0 0 0 0 7 0 2 0 10.5 20.5 31.5"


def test_dynamo_counts_from_the_corner_of_the_first_voxel(tmp_path: Path) -> None:
    (tmp_path / "a.tbl").write_text(TBL.format("30 40 50") + "\n")
    found = read_particles(tmp_path / "a.tbl", Known(input_voxel_size=10))
    np.testing.assert_allclose(found.positions, [[105, 200, 300]])
    np.testing.assert_allclose(found.rotations, [Rotation.from_euler("ZXZ", [-30, -40, -50], degrees=True).as_matrix()], atol=1e-12)
    assert (found.tomograms, found.classes, found.table["tag"].tolist()) == (["7"], ["2"], [3])
    assert found.scores == pytest.approx([0.25])
    (tmp_path / "a.doc").write_text("7 /data/TS_07.rec\n")
    assert read_particles(tmp_path / "a.tbl", Known(input_voxel_size=10)).tomograms == ["TS_07"]
    convert_particles(tmp_path / "a.tbl", tmp_path / "b.tbl", "dynamo", Known(input_voxel_size=10))
    row = [float(word) for word in (tmp_path / "b.tbl").read_text().split()]
    assert row[:6] == [3, 1, 1, 0, 0, 0]
    assert row[13:15] == [-60, 60]
    np.testing.assert_allclose(row[23:26], [11, 20.5, 30.5])
    assert row[35] == 10
    assert (tmp_path / "b.doc").read_text() == "1 TS_07\n"


@pytest.mark.parametrize("target", ["dynamo", "em"])
def test_large_numbers_stay_apart(tmp_path: Path, target: str) -> None:
    """Names of more digits than "%g" shows."""
    particles = replace(make_particles(3), tomograms=["1234567", "1234568", "16777215"], classes=["1000001", "1000002", "3"])
    write_particles(tmp_path / OUTPUT[target], particles, target, KNOWN)
    assert_same(read_particles(tmp_path / OUTPUT[target], KNOWN), particles)


@pytest.mark.parametrize("target", ["dynamo", "em", "relion3.1", "relion4", "relion5"])
def test_zero_is_a_number_beside_others(tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
    """Class 0 and tomogram 0 stay what they are, and so do the others; alone they get another number, since all 0 means not known."""
    particles = replace(make_particles(3), tomograms=["0", "0", "1"], classes=["0", "1", "2"])
    write_particles(tmp_path / OUTPUT[target], particles, target, KNOWN)
    found = read_particles(tmp_path / OUTPUT[target], KNOWN)
    assert_same(found, particles)
    assert "triptychClass" not in found.table
    assert not list(tmp_path.glob("*.doc"))
    assert "the classes became numbers" not in caplog.text
    alone = replace(particles, classes=["0"] * 3)
    write_particles(tmp_path / "alone" / OUTPUT[target], alone, target, KNOWN)
    assert read_particles(tmp_path / "alone" / OUTPUT[target], KNOWN).classes == (["0"] * 3 if target.startswith("relion") else ["1"] * 3)


def test_dynamo_tables_with_complex_numbers(tmp_path: Path) -> None:
    """MATLAB writes an angle between axes (column 28) as 0+1.2e-06i where rounding made its cosine more than 1."""
    (tmp_path / "a.tbl").write_text(TBL.format("0 0 0") + " 0.5 -1.5-2e-06i\n" + TBL.format("0 0 0") + " 0.5 0+1.2074e-06i\n")
    found = read_particles(tmp_path / "a.tbl", Known(input_voxel_size=10))
    assert found.table[["dshift", "daxis"]].to_numpy().tolist() == [[0.5, -1.5], [0.5, 0]]
    (tmp_path / "a.tbl").write_text(TBL.format("0 0 0") + " 0.5 nine\n")
    with pytest.raises(InputError, match=r'line 1 .* the text "nine" in column 28 \(daxis\)'):
        read_particles(tmp_path / "a.tbl", Known(input_voxel_size=10))


def test_dynamo_of_a_turn_about_z(tmp_path: Path) -> None:
    """A quarter turn from x to y: narot counts the other way round."""
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    np.testing.assert_allclose(rotations_from_dynamo(np.array([[0, 0, -90.0]]))[0], quarter, atol=1e-12)
    np.testing.assert_allclose(rotations_from_zxz(np.array([[90.0, 0, 0]]))[0], quarter, atol=1e-12)
    np.testing.assert_allclose(rotations_from_zxz(np.array([[0, 90.0, 0]]))[0] @ [0, 0, 1], [0, -1, 0], atol=1e-12)


def write_motives(path: Path, order: str = "<") -> None:
    """Bytes put together by hand: one particle."""
    rows = [0.5, 0, 0, 11, 4, 0, 0, 11, 21, 31, 0.5, -1, 0, 0, 0, 0, 10, 30, 20, 3]
    head = bytes([6 if order == "<" else 3, 0, 0, 5]) + struct.pack(order + "3i", 20, 1, 1) + bytes(496)
    path.write_bytes(head + struct.pack(order + "20f", *rows))


@pytest.mark.parametrize("order", ["<", ">"])
def test_motive_lists_count_from_one(tmp_path: Path, order: str) -> None:
    write_motives(tmp_path / "a.em", order)
    found = read_particles(tmp_path / "a.em", Known(input_voxel_size=10))
    np.testing.assert_allclose(found.positions, [[105, 190, 300]])
    z, x = (lambda angle: Rotation.from_euler("z", angle, degrees=True)), Rotation.from_euler("x", 20, degrees=True)
    np.testing.assert_allclose(found.rotations, [(z(30) * x * z(10)).as_matrix()], atol=1e-12)
    assert (found.tomograms, found.classes, found.table["subtomogram_id"].tolist()) == (["4"], ["3"], [11])
    assert found.scores == pytest.approx([0.5])
    convert_particles(tmp_path / "a.em", tmp_path / "b.em", "em", Known(input_voxel_size=10))
    raw = (tmp_path / "b.em").read_bytes()
    assert raw[:16] == bytes([6, 0, 0, 5]) + struct.pack("<3i", 20, 1, 1)
    np.testing.assert_allclose(struct.unpack("<20f", raw[512:]), [0.5, 0, 0, 11, 4, 0, 0, 12, 20, 31, -0.5, 0, 0, 0, 0, 0, 10, 30, 20, 3], atol=1e-5)


def write_motives_of(program: str, path: Path) -> None:
    """The particle of `write_motives`, as STOPGAP has it (its sg_get_motl_fields, sg_motl_stopgap_to_av3), and cryoCAT's motl.df as CSV."""
    if program == "STOPGAP":
        names = "motl_idx tomo_num object subtomo_num halfset orig_x orig_y orig_z score x_shift y_shift z_shift phi psi the class"
        row = "1 4 0 11 B 11.0 21.0 31.0 0.5 0.5 -1.0 0.0 10.0 30.0 20.0 3"
        path.write_text("\ndata_stopgap_motivelist\n\nloop_\n" + "".join(f"_{name}\n" for name in names.split()) + f"\n{row}\n")
    else:
        names = "score,geom1,geom2,subtomo_id,tomo_id,object_id,subtomo_mean,x,y,z,shift_x,shift_y,shift_z,geom3,geom4,geom5,phi,psi,theta,class"
        path.write_text(names + "\n0.5,0.0,0.0,11.0,4.0,0.0,0.0,11.0,21.0,31.0,0.5,-1.0,0.0,0.0,0.0,0.0,10.0,30.0,20.0,3.0\n")


@pytest.mark.parametrize(("program", "name"), [("STOPGAP", "b.star"), ("cryoCAT", "b.csv")])
def test_motive_lists_of_other_kinds(program: str, name: str, tmp_path: Path) -> None:
    write_motives(tmp_path / "a.em")
    write_motives_of(program, tmp_path / name)
    with pytest.raises(InputError, match="--input-voxel-size"):
        read_particles(tmp_path / name)
    found, expected = (read_particles(tmp_path / file, Known(input_voxel_size=10)) for file in (name, "a.em"))
    assert_same(found, expected)
    assert found.table["subtomogram_id"].tolist() == [11]
    if program == "STOPGAP":
        convert_particles(tmp_path / name, tmp_path / "c.star", "relion4", Known(input_voxel_size=10))
        assert read_relion(tmp_path / "c.star").table["rlnRandomSubset"].tolist() == [2]
        with pytest.raises(InputError, match="holds STOPGAP's motive list"):
            read_relion(tmp_path / name)
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("_phi", "_fee"))
        with pytest.raises(InputError, match="nothing of phi"):
            read_particles(tmp_path / name, Known(input_voxel_size=10))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
def test_em_files_of_every_kind(tmp_path: Path, dtype: str) -> None:
    data = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_em(tmp_path / "a.em", data)
    again = read_em(tmp_path / "a.em")
    assert again.dtype == data.dtype
    np.testing.assert_array_equal(again, data)


def write_model(path: Path, *, flags: int = 0xF400, reference: bytes = b"", pixel: float = 1.2, unit: int = -9) -> None:
    """A model put together by hand: an unnamed object with two contours, with a mesh and a chunk in between; then a named one."""
    head = b"IMODV1.2" + bytes(128) + struct.pack(">4iI4i6f5ifi", 100, 80, 60, 2, flags, 1, 0, 0, 255, *[0.0] * 3, *[1.0] * 3, *[0] * 5, pixel, unit)
    thing = struct.pack(">I2i3fi8B2i", 1 << 9, 0, 0, 0, 1, 0, 5, *[0] * 8, 0, 0)
    first = b"OBJT" + bytes(128) + struct.pack(">i", 2) + thing
    first += b"CONT" + struct.pack(">iI2i3f", 1, 0, 0, 0, 10.5, 20.5, 30)
    first += b"SIZE" + struct.pack(">if", 4, 3.0)
    first += b"CONT" + struct.pack(">iI2i3f", 1, 0, 0, 0, 0.5, 0.5, 0)
    first += b"MESH" + struct.pack(">iiI2h3fi", 1, 1, 0, 0, 0, 9, 9, 9, -1)
    second = b"OBJT" + b"vault".ljust(64, b"\0") + bytes(64) + struct.pack(">i", 1) + thing
    second += b"CONT" + struct.pack(">iI2i3f", 1, 0, 0, 0, 1.5, 2.5, 3.25)
    path.write_bytes(head + struct.pack(">i3f", 0, 0, 0, 0) + first + second + reference + b"IEOF")


def test_imod_counts_from_the_corner_in_x_and_y_only(tmp_path: Path) -> None:
    """The centre of the first voxel is at 0.5, 0.5, 0; the pixel's size is in nanometres here."""
    write_model(tmp_path / "TS_5.mod")
    found = read_particles(tmp_path / "TS_5.mod")
    np.testing.assert_allclose(found.positions, np.array([[10, 20, 30], [0, 0, 0], [1, 2, 3.25]]) * 12)
    assert (found.tomograms, found.classes) == (["TS_5"] * 3, ["1", "1", "vault"])
    assert found.rotations is None
    origin = struct.pack(">18f", *[1] * 3, 50, 0, 0, *[0] * 3, *[5] * 3, 30, 0, 0, *[0] * 3)
    write_model(tmp_path / "part.mod", reference=b"MINX" + struct.pack(">i", 72) + origin)
    # made on a part of the volume that begins 4 voxels of 5 Å into it
    np.testing.assert_allclose(read_particles(tmp_path / "part.mod").positions[0], np.array([14, 20, 30]) * 5)


def test_imod_bytes(tmp_path: Path) -> None:
    write_imod(tmp_path / "a.mod", [ImodObject("vault", np.array([[1.0, 2.0, 3.0]]))], 10.0, (40, 30, 20))
    raw = (tmp_path / "a.mod").read_bytes()
    assert raw[:8] == b"IMODV1.2"
    assert struct.unpack(">4i", raw[136:152]) == (40, 30, 20, 1)
    assert raw[240:249] == b"OBJTvault"
    assert raw[420:424] == b"CONT"
    assert struct.unpack(">iI2i3f", raw[424:452]) == (1, 0, 0, 0, 1.5, 2.5, 3.0)
    assert raw[452:456] == b"MINX"
    assert struct.unpack(">i18f", raw[456:532])[10:13] == (10.0, 10.0, 10.0)
    assert raw[532:] == b"IEOF"
    model = read_imod(tmp_path / "a.mod")
    assert (model.voxel_size, model.objects[0].name) == (10.0, "vault")
    np.testing.assert_array_equal(model.objects[0].points, [[1, 2, 3]])


def write_copick_project(folder: Path, **changes: Any) -> Path:
    """As copick itself writes one."""
    matrix = [[0.0, -1.0, 0.0, 5.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    point = {"location": {"x": 10.0, "y": 20.0, "z": 30.0}, "transformation_": matrix, "instance_id": 3, "score": 0.5}
    picks = {"pickable_object_name": "ribosome", "user_id": "ann", "session_id": "17", "run_name": "TS_1", "voxel_spacing": 10.0} | changes
    place = folder / "ExperimentRuns" / "TS_1" / "Picks" / "ann_17_ribosome.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"unit": "angstrom", "points": [point, {"location": {"x": 1, "y": 2, "z": 3}}]} | picks))
    things = [{"name": "ribosome", "is_particle": True, "label": 1, "color": [255, 0, 0, 255]}]
    (folder / "config.json").write_text(json.dumps({"name": "test", "pickable_objects": things, "overlay_root": f"local://{folder}/"}))
    return folder


def test_users_of_a_copick_project_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A curator's points and those of a picker are of the same objects."""
    project = write_copick_project(tmp_path / "project")
    picks = project / "ExperimentRuns/TS_1/Picks"
    content = json.loads((picks / "ann_17_ribosome.json").read_text())
    (picks / "picker_0_ribosome.json").write_text(json.dumps(content | {"user_id": "picker", "session_id": "0", "points": content["points"][:1]}))
    assert len(read_particles(project)) == 3
    assert "by several users or sessions, ann/17 (2), picker/0 (1), and all are taken" in caplog.text
    caplog.clear()
    for user, count in (("ann", 2), ("ann/17", 2), ("picker", 1)):
        assert len(read_particles(project, Known(user=user))) == count
    assert not caplog.records
    with pytest.raises(InputError, match=r"has no points by bob, but by ann/17 \(2\), picker/0 \(1\)"):
        read_particles(project, Known(user="bob"))
    with pytest.raises(InputError, match="--user chooses among the users of a copick project"):
        read_particles(write_relion_4(tmp_path), Known(user="ann"))


def test_dynamo_names_tomograms_in_the_folder_that_it_crops_to(tmp_path: Path) -> None:
    """And what it does not use of a table need not be a number."""
    rows = np.zeros((2, 41))
    rows[:, 0], rows[:, 19], rows[:, 23:26], rows[:, 35], rows[0, 36] = [1, 2], [1, 2], 20, 10.0, np.nan
    np.savetxt(tmp_path / "crop.tbl", rows, fmt="%g")
    (tmp_path / "indices_column20.doc").write_text("1 /data/TS_07.mrc\n2 /data/TS_08.em\n")
    assert read_particles(tmp_path / "crop.tbl").tomograms == ["TS_07", "TS_08"]
    rows[1, 23] = np.nan
    np.savetxt(tmp_path / "crop.tbl", rows, fmt="%g")
    with pytest.raises(InputError, match=r"x of .*crop\.tbl \(column 24\) is nan in row 2, but a finite number"):
        read_particles(tmp_path / "crop.tbl")


def test_classes_keep_the_numbers_that_label_maps_have(tmp_path: Path) -> None:
    place = {f"rlnCoordinate{axis}": [20.0] * 3 for axis in "XYZ"}
    table = pd.DataFrame({"rlnTomoName": ["a"] * 3, **place, "rlnClassNumber": [5, 1, 5], "triptychClass": ["groel", "tric", "groel"]})
    for numbers, expected in (([5, 1, 5], ["5", "1", "5"]), ([5, 1, 2], ["1", "2", "1"]), ([3, 3, 3], ["1", "2", "1"])):
        write_star(tmp_path / "in.star", {"particles": table.assign(rlnClassNumber=numbers)})
        convert_particles(tmp_path / "in.star", tmp_path / f"{numbers}.tbl", "dynamo", Known(voxel_size=10.0, input_voxel_size=10.0))
        assert read_particles(tmp_path / f"{numbers}.tbl").classes == expected


def test_pixels_of_warp_stay_but_for_relion(tmp_path: Path) -> None:
    """Warp counts in the pixels of its export, whatever it says of the tilt series; RELION in those of the tilt series."""
    place = {f"rlnCoordinate{axis}": [20.0] for axis in "XYZ"}
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [2.5], "rlnImagePixelSize": [10.0]})
    table = pd.DataFrame({"rlnTomoName": ["TS_1.tomostar"], **place, "rlnOpticsGroup": [1]})
    write_star(tmp_path / "in.star", {"optics": optics, "particles": table})
    for target, out, size in (("dynamo", "a.tbl", 10.0), ("relion4", "a.star", 2.5)):
        before = convert_particles(tmp_path / "in.star", tmp_path / out, target)
        after = read_particles(tmp_path / out)
        np.testing.assert_allclose(after.pixel_sizes, size)
        np.testing.assert_allclose(after.positions, before.positions)


def test_copick_projects(tmp_path: Path) -> None:
    """Å from the first voxel, the matrix object -> tomogram, its translation a shift."""
    found = read_particles(write_copick_project(tmp_path / "project"))
    np.testing.assert_allclose(found.positions, [[15, 20, 30], [1, 2, 3]])
    np.testing.assert_allclose(found.rotations, [Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.eye(3)], atol=1e-12)
    assert (found.tomograms, found.classes) == (["TS_1"] * 2, ["ribosome"] * 2)
    assert found.table["instance_id"].tolist() == [3, 0]
    np.testing.assert_array_equal(found.scores, [0.5, np.nan])
    convert_particles(tmp_path / "project" / "config.json", tmp_path / "copy", "copick")
    file = tmp_path / "copy" / "ExperimentRuns" / "TS_1" / "Picks" / "ann_17_ribosome.json"
    written = json.loads(file.read_text())
    assert (written["user_id"], written["session_id"], written["voxel_spacing"], written["unit"]) == ("ann", "17", 10, "angstrom")
    assert written["points"][0]["location"] == {"x": 15, "y": 20, "z": 30}
    assert written["points"][1]["score"] == 0  # copick takes a missing one for 1
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["overlay_root"] == f"local://{tmp_path / 'copy'}/"
    assert [(thing["name"], thing["label"]) for thing in config["pickable_objects"]] == [("ribosome", 1)]


def test_copick_projects_that_were_moved(tmp_path: Path) -> None:
    project = write_copick_project(tmp_path / "a")
    (project / "ExperimentRuns").rename(project / "elsewhere")
    config = {"pickable_objects": [], "overlay_root": "local:///kaggle/overlay", "static_root": "/kaggle/static"}
    (project / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"overlay_root /kaggle/overlay of .*config.json does not exist here.*: correct overlay_root"):
        read_particles(project)
    (project / "config.json").write_text(json.dumps(config | {"overlay_root": "s3://bucket/overlay"}))
    with pytest.raises(InputError, match="static_root /kaggle/static"):
        read_particles(project)


def test_copick_whose_angles_are_not_to_be_trusted(tmp_path: Path) -> None:
    assert read_particles(write_copick_project(tmp_path / "a", trust_orientation=False)).rotations is None
    assert read_particles(write_copick_project(tmp_path / "b", trust_orientation="false")).rotations is None
    assert clean_name("80S ribosome_2") == "80S-ribosome-2"


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tomogram,x,y,z,rot,tilt,psi,class,score,note\n0012,1,2,3,10,20,30,NA,0.5,hello\n0012,4,5,6,0,0,0,b,,\n")
    found = read_particles(tmp_path / "a.csv")
    np.testing.assert_allclose(found.positions, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(found.rotations[0], Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).inv().as_matrix(), atol=1e-12)
    assert (found.tomograms, found.classes) == (["0012"] * 2, ["NA", "b"])
    assert found.table["note"].tolist()[0] == "hello"
    np.testing.assert_array_equal(found.scores, [0.5, np.nan])


def test_csv_with_spaces_after_the_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('tomogram, x, y, z, class\nTS_1, 1, 2, 3, "a b"\n')
    found = read_particles(tmp_path / "a.csv")
    assert found.positions is not None
    assert (found.positions.tolist(), found.tomograms, found.classes) == ([[1, 2, 3]], ["TS_1"], ["a b"])
    assert describe_file(tmp_path / "a.csv").kind == "CSV file of particles"


def test_csv_of_a_challenge(tmp_path: Path) -> None:
    """The columns of the submissions to the CZII challenge at Kaggle."""
    (tmp_path / "a.csv").write_text("id,experiment,particle_type,x,y,z\n0,01,ribosome,1.5,2,3\n1,TS_6_4,beta-amylase,4,5,6\n")
    found = read_particles(tmp_path / "a.csv")
    assert (found.tomograms, found.classes, found.table["id"].tolist()) == (["01", "TS_6_4"], ["ribosome", "beta-amylase"], [0, 1])


@pytest.mark.parametrize("names", [["psi"], ["rot", "psi"], ["r11", "r12"]])
def test_angles_that_are_not_read_are_kept(names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text(f"x,y,z,{','.join(names)}\n1,2,3{',7' * len(names)}\n")
    assert convert_particles(tmp_path / "a.csv", tmp_path / "b.csv", "csv").rotations is None
    assert "no orientations" in caplog.records[0].getMessage()
    assert pd.read_csv(tmp_path / "b.csv")[names].to_numpy().tolist() == [[7] * len(names)]


# ----------------------------------------------------------------------------------------------------------- STAR files


def write_relion_4(folder: Path) -> Path:
    optics = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["gain1"], "rlnVoltage": [300.0],
        "rlnTomoTiltSeriesPixelSize": [2.0], "rlnImagePixelSize": [8.0],
    }  # fmt: skip
    table = {
        "rlnTomoName": ["a", "b"], "rlnTomoParticleId": [7, 8], "rlnCoordinateX": [100.0, 50.0], "rlnCoordinateY": [200.0, 60.0],
        "rlnCoordinateZ": [300.0, 70.0], "rlnOriginXAngst": [4.0, 0.0], "rlnOriginYAngst": [0.0, 0.0], "rlnOriginZAngst": [0.0, -6.0],
        "rlnAngleRot": [0.0, 10.0], "rlnAngleTilt": [0.0, 20.0], "rlnAnglePsi": [30.0, 40.0], "rlnClassNumber": [2, 1], "rlnOpticsGroup": [1, 1],
        "rlnTomoSubtomogramRot": [10.0, 0.0], "rlnTomoSubtomogramTilt": [90.0, 0.0], "rlnTomoSubtomogramPsi": [0.0, 0.0], "rlnOwnColumn": ["x", "y"],
    }  # fmt: skip
    write_star(folder / "particles.star", {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)})
    return folder / "particles.star"


@pytest.mark.parametrize("target", ["relion3.1", "warp"])
def test_programs_that_know_no_subtomogram_angles_get_the_whole_rotation(target: str, tmp_path: Path) -> None:
    source = write_relion_4(tmp_path)
    before = convert_particles(source, tmp_path / "out.star", target, Known(voxel_size=2.0))
    table = read_relion(tmp_path / "out.star").table
    assert not any("Subtomogram" in name for name in table)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(rotations_from_angles(angles), before.rotations, atol=1e-6)


@pytest.mark.parametrize("known", [{}, {"voxel_size": 2.0}])
def test_binned_tomograms_tell_the_size_of_unbinned_ones(known: dict[str, Any], tmp_path: Path) -> None:
    source = write_relion_4(tmp_path)
    names = dict.fromkeys(read_particles(source).tomograms or ())
    for name in names:
        write_mrc(tmp_path / "tomograms" / f"{name}.mrc", Volume(np.zeros((75, 62, 50), np.float32), 16.0))
    convert_particles(source, tmp_path / "five", "relion5", Known(tomograms=tmp_path / "tomograms", **known))
    table = read_star(tmp_path / "five" / "tomograms.star")["global"]
    assert set(names) <= set(table["rlnTomoName"])
    for name, expected in (("TiltSeriesPixelSize", 2.0), ("SizeX", 400), ("SizeY", 496), ("SizeZ", 600)):
        assert (table[f"rlnTomo{name}"] == expected).all()
    again = read_particles(tmp_path / "five")
    np.testing.assert_allclose(again.positions, read_particles(source).positions, atol=1e-3)


@pytest.mark.parametrize(("target", "expected"), [("relion3.1", 2.0), ("relion4", 2.0), ("dynamo", 16.0), ("em", 16.0)])
def test_binned_tomograms_leave_relion_its_unbinned_pixels(target: str, expected: float, tmp_path: Path) -> None:
    """Coordinates of RELION 3.1 and 4 count pixels of the tilt series; the others' count voxels of the tomograms that are given."""
    source = write_relion_4(tmp_path)
    for name in "ab":
        write_mrc(tmp_path / "tomograms" / f"{name}.mrc", Volume(np.zeros((75, 62, 50), np.float32), 16.0))
    out = tmp_path / "out" / OUTPUT[target]
    before = convert_particles(source, out, target, Known(tomograms=tmp_path / "tomograms"))
    after = read_particles(out, Known(input_voxel_size=expected if target == "em" else None))
    assert after.pixel_sizes is not None
    np.testing.assert_allclose(after.pixel_sizes, expected)
    np.testing.assert_allclose(after.positions, before.positions, atol=1e-3)


def test_tomograms_that_contradict_the_table_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_relion_4(tmp_path)
    convert_particles(source, tmp_path / "five", "relion5", Known(voxel_size=2.0, tomogram_size=(400, 500, 600)))
    caplog.clear()
    convert_particles(tmp_path / "five", tmp_path / "again", "relion5", Known(voxel_size=4.0, tomogram_size=(200, 250, 300)))
    assert "is taken to be" not in caplog.text
    convert_particles(tmp_path / "five", tmp_path / "other", "relion5", Known(voxel_size=4.0, tomogram_size=(400, 500, 600)))
    assert "400 x 500 x 600 voxels of 4 Å, but the input states 400 x 500 x 600 of 2 Å" in caplog.text


def test_classes_that_are_not_known(tmp_path: Path) -> None:
    """cryoCAT writes nan into rlnClassNumber."""
    source = write_relion_4(tmp_path)
    blocks = read_star(source)
    for numbers, expected in (([np.nan, np.nan], None), ([np.nan, 2.0], ["0", "2"]), ([1.0, 2.0], ["1", "2"])):
        blocks["particles"]["rlnClassNumber"] = numbers  # type: ignore[index]
        write_star(source, blocks)
        assert read_particles(source).classes == expected


def test_relion_4_to_5_and_back(tmp_path: Path) -> None:
    source = write_relion_4(tmp_path)
    before = convert_particles(source, tmp_path / "five", "relion5", Known(voxel_size=2.0, tomogram_size=(400, 500, 600)))
    file = read_relion(tmp_path / "five" / "optimisation_set.star")
    assert file.dialect == "RELION 5"
    assert set(before.table) - set(file.table) == {"rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"}
    # 50 px of 2 Å are 100 Å, no shift in x; the centre is at 400 Å; and the shift of -6 Å is subtracted from z
    assert file.table[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy()[1].tolist() == pytest.approx([-300, -380, -454])
    assert file.table["rlnOriginZAngst"].tolist() == [0, 0]
    assert file.table["rlnAngleTilt"].to_numpy() == pytest.approx(before.table["rlnAngleTilt"].to_numpy(), abs=1e-6)
    assert file.table["rlnTomoSubtomogramTilt"].tolist() == [90, 0]
    assert file.optics is not None
    assert file.optics.iloc[0].to_dict() == {
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "gain1", "rlnVoltage": 300, "rlnTomoTiltSeriesPixelSize": 2, "rlnImagePixelSize": 8,
    }  # fmt: skip
    after = convert_particles(tmp_path / "five", tmp_path / "four.star", "relion4")
    assert_same(after, before, angles=False)
    np.testing.assert_allclose(after.rotations, before.rotations, atol=1e-9)
    again = read_particles(tmp_path / "four.star")
    assert_same(again, before, angles=False)
    assert read_relion(tmp_path / "four.star").dialect == "RELION 4"
    assert set(again.table) == set(before.table)


def test_relion_5_keeps_what_its_tomograms_say(tmp_path: Path) -> None:
    table = {"rlnTomoName": ["a"], "rlnTomoHand": [-1.0], "rlnTomoTiltSeriesPixelSize": [2.5], "rlnTomoSizeX": [400], "rlnTomoSizeY": [300]}
    blocks = {"global": pd.DataFrame(table | {"rlnTomoSizeZ": [200]}), "a": pd.DataFrame({"rlnDefocusU": [1.0, 2.0]})}
    write_star(tmp_path / "tomograms.star", blocks)
    place = {f"rlnCenteredCoordinate{axis}Angst": [value] for axis, value in zip("XYZ", [10.0, -20.0, 0.0], strict=True)}
    write_star(tmp_path / "in.star", {"particles": pd.DataFrame({"rlnTomoName": ["a"]} | place)})
    convert_particles(tmp_path / "in.star", tmp_path / "out", "relion5")
    written = read_star(tmp_path / "out" / "tomograms.star")
    assert list(written) == ["global", "a"]
    pd.testing.assert_frame_equal(written["global"], blocks["global"])
    np.testing.assert_allclose(read_particles(tmp_path / "out").positions, [[510, 355, 250]])


@pytest.mark.parametrize("input_voxel_size", [None, 5.0])
def test_the_size_of_a_tomogram_counts_its_own_voxels(input_voxel_size: float | None, tmp_path: Path) -> None:
    """Those of --voxel-size, for RELION 5 counts in Å from the centre of 100 x 90 x 50 voxels of 10 Å."""
    place = {f"rlnCenteredCoordinate{axis}Angst": [0.0] for axis in "XYZ"}
    write_star(tmp_path / "in.star", {"particles": pd.DataFrame({"rlnTomoName": ["a"]} | place)})
    found = read_particles(tmp_path / "in.star", Known(tomogram_size=(100, 90, 50), voxel_size=10.0, input_voxel_size=input_voxel_size))
    np.testing.assert_allclose(found.positions, [[500, 450, 250]])


def test_tomograms_that_are_named_tell_their_sizes(tmp_path: Path) -> None:
    """As in predictions made from picks, which have no tomograms.star beside them."""
    place = {f"rlnCenteredCoordinate{axis}Angst": [value] for axis, value in zip("XYZ", [10.0, -20.0, 5.0], strict=True)}
    table = pd.DataFrame({"rlnTomoName": ["t"], **place, "rlnTomoReconstructedTomogram": ["maps/t.mrc"]})
    star = tmp_path / "particles.star"
    write_star(star, {"particles": table})
    with pytest.raises(InputError, match="counts positions from the tomograms' centres"):
        read_particles(star)
    (tmp_path / "maps").mkdir()
    write_mrc(tmp_path / "maps/t.mrc", Volume(np.zeros((20, 30, 40), np.float32), 8.0))
    particles = read_particles(star)
    assert particles.positions is not None
    np.testing.assert_allclose(particles.positions, [[160 + 10, 120 - 20, 80 + 5]])
    assert particles.frames == {"t": Frame((40, 30, 20), 8.0)}
    given = read_particles(star, Known(tomogram_size=(80, 60, 40), voxel_size=8.0))
    np.testing.assert_allclose(given.positions, [[320 + 10, 240 - 20, 160 + 5]])
    for content in (b"no MRC file", b"\0" * 2000):
        (tmp_path / "maps/t.mrc").write_bytes(content)
        with pytest.raises(InputError, match="counts positions from the tomograms' centres"):
            read_particles(star)


def test_coordinates_from_corner_and_centre_need_no_tomogram(tmp_path: Path) -> None:
    """They say where the centre is; nothing that is told of a tomogram may contradict it."""
    places = {"X": (170, 10), "Y": (100, -20), "Z": (85, 5)}
    table = pd.DataFrame({"rlnTomoName": ["t", "t"], "rlnTomoTiltSeriesPixelSize": 4.0, "rlnTomoReconstructedTomogram": "t.mrc"})
    for axis, (corner, centered) in places.items():
        table = table.assign(**{f"rlnCoordinate{axis}": [corner / 4, 0], f"rlnCenteredCoordinate{axis}Angst": [centered, centered - corner]})
    star = tmp_path / "particles.star"
    write_star(star, {"particles": table})
    expected = [[170, 100, 85], [0, 0, 0]]
    np.testing.assert_allclose(read_particles(star).positions, expected, atol=1e-6)
    write_mrc(tmp_path / "t.mrc", Volume(np.zeros((20, 30, 40), np.float32), 8.0))
    assert read_particles(star).frames == {"t": Frame((40, 30, 20), 8.0)}
    write_mrc(tmp_path / "t.mrc", Volume(np.zeros((20, 30, 40), np.float32), 2.0))  # as other programs' headers may have it
    found = read_particles(star)
    assert found.frames == {}
    np.testing.assert_allclose(found.positions, expected, atol=1e-6)
    for known in (Known(tomograms=tmp_path / "t.mrc"), Known(tomogram_size=(80, 60, 40), voxel_size=8.0)):
        with pytest.raises(InputError, match=r"at 160\.0, 120\.0, 80\.0 Å, but that of"):
            read_particles(star, known)
    np.testing.assert_allclose(read_particles(star, Known(tomogram_size=(40, 30, 20), voxel_size=8.0)).positions, expected, atol=1e-6)
    write_star(star, {"particles": table.assign(rlnCoordinateX=[0.0, 0.0])})  # they do not agree where the centre is: one of them is old
    (tmp_path / "t.mrc").unlink()
    with pytest.raises(InputError, match="counts positions from the tomograms' centres"):
        read_particles(star)


def test_optics_groups_are_split_by_pixel_size(tmp_path: Path) -> None:
    particles = make_particles(4)
    sizes = np.array([2.0, 2.0, 3.0, 2.0])
    mixed = Particles(particles.table, particles.positions, particles.rotations, tomograms=particles.tomograms, pixel_sizes=sizes)
    write_particles(tmp_path / "a.star", mixed, "relion4")
    found = read_particles(tmp_path / "a.star")
    np.testing.assert_allclose(found.positions, mixed.positions)
    assert found.pixel_sizes is not None
    assert found.pixel_sizes.tolist() == sizes.tolist()


def test_an_optics_group_that_is_in_no_table_is_named(tmp_path: Path) -> None:
    place = {"rlnTomoName": ["t"] * 2, **{f"rlnCoordinate{axis}": [1.0, 2.0] for axis in "XYZ"}, "rlnTomoTiltSeriesPixelSize": [2.0] * 2}
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": [300.0]})
    write_star(tmp_path / "in.star", {"optics": optics, "particles": pd.DataFrame({**place, "rlnOpticsGroup": [1, 2]})})
    with pytest.raises(InputError, match="row 2 of the particles names the optics group 2"):
        convert_particles(tmp_path / "in.star", tmp_path / "out.star", "relion4")
    assert not (tmp_path / "out.star").exists()


def test_further_columns_of_a_csv_file_are_what_they_were_in_a_star_file(tmp_path: Path) -> None:
    further = {
        "rlnMicrographName": ["0012", "1e5", "7"], "rlnOwnWord": ["True", "", "False"], "rlnCtfMaxResolution": [np.nan, 0.1 + 0.2, 3.5],
        "rlnCtfScalefactor": [np.nan] * 3, "rlnTomoParticleId": [2**53 + 1, 2, 3],
    }  # fmt: skip
    place = {"rlnTomoName": ["a"] * 3, **{f"rlnCoordinate{axis}": [1.0, 2.0, 3.0] for axis in "XYZ"}, "rlnTomoTiltSeriesPixelSize": 2.0}
    write_star(tmp_path / "a.star", {"particles": pd.DataFrame({**place, **further})})
    convert_particles(tmp_path / "a.star", tmp_path / "b.csv", "csv")
    convert_particles(tmp_path / "b.csv", tmp_path / "c.star", "relion4")
    before, after = (read_star(tmp_path / name)["particles"][list(further)] for name in ("a.star", "c.star"))  # type: ignore[index]
    pd.testing.assert_frame_equal(after, before)


def test_images_that_shifted_particles_are_not_in_the_middle_of_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_relion_4(tmp_path)
    convert_particles(source, tmp_path / "places.star", "relion4")
    table = read_star(source)
    table["particles"]["rlnImageName"] = ["a.mrc", "b.mrc"]  # type: ignore[index]
    table["particles"]["rlnOriginZAngst"] = 0.0  # type: ignore[index]
    write_star(source, table)
    convert_particles(source, tmp_path / "dynamo.tbl", "dynamo")  # which has no images
    assert "extract" not in caplog.text
    convert_particles(source, tmp_path / "images.star", "relion4")
    assert "shifts (rlnOrigin) of 1 of 2 particles are in their coordinates now" in caplog.text
    caplog.clear()
    convert_particles(tmp_path / "images.star", tmp_path / "again.star", "relion4")
    assert "extract" not in caplog.text


def test_a_single_tomogram_may_be_a_list_of_pairs(tmp_path: Path) -> None:
    """As starfile before 0.5 wrote it."""
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\nTS_1,100,200,300\n")
    row = {**tomogram_row("TS_1", "a.mrc", Frame((400, 400, 200), 2.0)), "rlnVoltage": 300.0}
    write_star(tmp_path / "tomograms.star", {"global": row})
    convert_particles(tmp_path / "a.csv", tmp_path / "five", "relion5", Known(tomograms=tmp_path / "tomograms.star"))
    assert read_star(tmp_path / "five" / "tomograms.star")["global"]["rlnVoltage"].tolist() == [300]
    assert read_particles(tmp_path / "five").positions.tolist() == [[100, 200, 300]]  # type: ignore[union-attr]


def test_warp_counts_in_pixels_of_the_images(tmp_path: Path) -> None:
    source = write_relion_4(tmp_path)
    table = read_star(source)
    assert isinstance(table["particles"], pd.DataFrame)
    table["particles"]["rlnImageName"] = ["a.mrc", "b.mrc"]
    write_star(source, table)
    convert_particles(source, tmp_path / "warp.star", "warp")
    file = read_relion(tmp_path / "warp.star")
    assert file.is_warp
    np.testing.assert_allclose(file.coordinate_pixel_size(), 8)
    np.testing.assert_allclose(read_particles(tmp_path / "warp.star").positions, read_particles(source).positions)
    with pytest.raises(InputError, match="leave out --voxel-size"):
        convert_particles(source, tmp_path / "other.star", "warp", Known(voxel_size=2.0))
    # without its ending, the name no longer says that pixels are counted as Warp does
    convert_particles(tmp_path / "warp.star", tmp_path / "four.star", "relion4")
    assert read_particles(tmp_path / "four.star").tomograms == ["a", "b"]
    np.testing.assert_allclose(read_particles(tmp_path / "four.star").positions, read_particles(source).positions)
    # RELION counts in the pixels of the tilt series, which WarpTools states beside those of its export
    table = read_star(tmp_path / "warp.star")
    table["optics"]["rlnTomoTiltSeriesPixelSize"] = 1.6  # type: ignore[index]
    write_star(tmp_path / "both.star", table)
    convert_particles(tmp_path / "both.star", tmp_path / "unbinned.star", "relion4")
    np.testing.assert_allclose(read_relion(tmp_path / "unbinned.star").coordinate_pixel_size(), 1.6)
    np.testing.assert_allclose(read_particles(tmp_path / "unbinned.star").positions, read_particles(source).positions)
    convert_particles(tmp_path / "both.star", tmp_path / "again.star", "warp")
    np.testing.assert_allclose(read_relion(tmp_path / "again.star").coordinate_pixel_size(), 8)


@pytest.mark.parametrize("name", ["../reconstruction/TS_1_10.00Apx.mrc", "TS_1.tomostar", "TS_1.rec"])
def test_tomograms_are_called_as_each_program_links_them(name: str, tmp_path: Path) -> None:
    """RELION by the very rlnTomoName of its table, of which it makes folders; WarpTools by the tilt series' file (its TiltSeries.Name)."""
    particles = replace(make_particles(3), tomograms=[name] * 3)
    links = {"relion4": ("rlnTomoName", "TS_1"), "relion5": ("rlnTomoName", "TS_1"), "warp": ("rlnMicrographName", "TS_1.tomostar")}
    for target, (label, expected) in links.items():
        write_particles(tmp_path / OUTPUT[target], particles, target, KNOWN)
        path = tmp_path / OUTPUT[target]
        assert set(read_relion(path / "optimisation_set.star" if path.is_dir() else path).table[label]) == {expected}
        assert np.allclose(read_particles(path).positions, particles.positions)
        path.rename(tmp_path / target)
    # a table of tomograms decides, be it the input's own or given
    tables = read_star(tmp_path / "relion5/tomograms.star")
    tables["global"]["rlnTomoName"] = ["tomo/TS_1"]  # type: ignore[index]
    write_star(tmp_path / "own.star", tables)
    write_particles(tmp_path / "b", particles, "relion5", Known(tomograms=tmp_path / "own.star"))
    assert set(read_relion(tmp_path / "b/particles.star").table["rlnTomoName"]) == {"tomo/TS_1"}
    write_particles(tmp_path / "c.star", replace(particles, tomogram_blocks=tables), "relion4", KNOWN)
    assert set(read_relion(tmp_path / "c.star").table["rlnTomoName"]) == {"tomo/TS_1"}
    with pytest.raises(InputError, match="rename"):
        write_particles(tmp_path / "d.star", replace(particles, tomograms=["a/TS_1.mrc", "b/TS_1.mrc", "c"]), "relion4", KNOWN)


def test_particles_of_m(tmp_path: Path) -> None:
    """Å from the first voxel and Warp's angles, which exports of it to RELION copy as they are, with a pixel size of 1 Å."""
    columns = {**{f"wrpCoordinate{axis}1": [value] for axis, value in zip("XYZ", (100.0, 200.0, 300.0), strict=True)}}
    columns |= {"wrpAngleRot1": [10.0], "wrpAngleTilt1": [20.0], "wrpAnglePsi1": [30.0], "wrpRandomSubset": [2], "wrpSourceName": ["TS_1.tomostar"]}
    write_star(tmp_path / "a.star", {"particles": pd.DataFrame(columns)})
    found = read_particles(tmp_path / "a.star")
    np.testing.assert_allclose(found.positions, [[100, 200, 300]])
    np.testing.assert_allclose(found.rotations, rotations_from_angles(np.array([[10.0, 20.0, 30.0]])))
    assert (found.tomograms, found.table["rlnRandomSubset"].tolist()) == (["TS_1.tomostar"], [2])
    with pytest.raises(InputError, match=r"holds M's particles of a species.*triptych convert"):
        read_relion(tmp_path / "a.star")
    write_star(tmp_path / "b.star", {"particles": pd.DataFrame(columns).drop(columns="wrpSourceName")})
    with pytest.raises(InputError, match="lacks the column wrpSourceName"):
        read_particles(tmp_path / "b.star")


def test_sizes_come_from_the_tomograms(tmp_path: Path) -> None:
    (tmp_path / "tomograms").mkdir()
    for name, shape in (("1", (20, 30, 40)), ("2", (24, 30, 40)), ("3", (20, 30, 40))):
        write_mrc(tmp_path / "tomograms" / f"{name}_10.00Apx.mrc", Volume(np.zeros(shape, dtype=np.int8), 10.0))
    particles = make_particles(20)
    write_particles(tmp_path / "out", particles, "relion5", Known(tomograms=tmp_path / "tomograms"))
    found = read_particles(tmp_path / "out")
    assert found.frames == {"1": Frame((40, 30, 20), 10), "2": Frame((40, 30, 24), 10), "3": Frame((40, 30, 20), 10)}
    assert_same(found, particles)
    write_particles(tmp_path / "a.tbl", particles, "dynamo", Known(tomograms=tmp_path / "tomograms"))
    assert_same(read_particles(tmp_path / "a.tbl"), particles)
    # a list of tomograms does as well, where RELION 5's own is not beside the particles
    (tmp_path / "out" / "tomograms.star").rename(tmp_path / "list.star")
    with pytest.raises(InputError, match="--tomograms"):
        read_particles(tmp_path / "out" / "particles.star")
    assert_same(read_particles(tmp_path / "out" / "particles.star", Known(tomograms=tmp_path / "list.star")), particles)


def test_what_gets_lost_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert_particles(write_relion_4(tmp_path), tmp_path / "models", "imod", Known(voxel_size=2.0))
    assert len(caplog.records) == 1
    assert "angles" in caplog.text
    assert "rlnOwnColumn" in caplog.text


def test_names_become_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("tomogram,class,x,y,z\nTS_b,vault,1,2,3\nTS_a,ribosome,4,5,6\n")
    convert_particles(tmp_path / "a.csv", tmp_path / "b.em", "em", Known(voxel_size=10))
    assert "1 is ribosome, 2 is vault" in caplog.text
    assert (tmp_path / "b.doc").read_text() == "1 TS_b\n2 TS_a\n"
    found = read_particles(tmp_path / "b.em", Known(input_voxel_size=10))
    assert (found.tomograms, found.classes) == (["TS_b", "TS_a"], ["2", "1"])
    (tmp_path / "b.em").unlink()
    convert_particles(tmp_path / "a.csv", tmp_path / "b.em", "em", Known(voxel_size=10))  # as after a try that had got no further than the names
    (tmp_path / "b.em").unlink()
    (tmp_path / "b.doc").write_text("1 TS_c\n")
    with pytest.raises(InputError, match=r"b\.doc, which is to name the tomograms of b\.em, exists already"):
        convert_particles(tmp_path / "a.csv", tmp_path / "b.em", "em", Known(voxel_size=10))
    (tmp_path / "c.csv").write_text("tomogram,x,y,z\n1,1,2,3\n")
    for left in ("b.doc", "indices_column20.doc"):  # by the names that an earlier table has left there, the tomogram 1 would be read as TS_c
        with pytest.raises(InputError, match=rf"{left}, by which the tomograms of b\.em would not keep the numbers"):
            convert_particles(tmp_path / "c.csv", tmp_path / "b.em", "em", Known(voxel_size=10))
        (tmp_path / left).rename(tmp_path / "indices_column20.doc")


# ------------------------------------------------------------------------------------------------------------ bad input


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


EM_HEAD = bytes([6, 0, 0, 5]) + struct.pack("<3i", 20, 1, 1) + bytes(496)
BAD = [
    ("a.tbl", text(""), "empty"),
    ("a.tbl", text("1 2 three\n"), "text"),
    ("a.tbl", text("1 2 3\n"), "at least 26"),
    ("a.tbl", text(TBL.format("0 0 nan") + "\n"), "finite"),
    ("a.tbl", text(TBL.format("0 0 0") + "\n1 2\n"), "2 values"),
    ("a.tbl", raw(b"\0\1"), "not a text file"),
    ("a.em", raw(b"\6"), "512"),
    ("a.em", raw(EM_HEAD), "truncated"),
    ("a.em", raw(bytes([6, 0, 0, 8]) + EM_HEAD[4:] + bytes(160)), "real numbers"),
    ("a.em", raw(bytes([77]) + EM_HEAD[1:] + bytes(80)), "first byte"),
    ("a.em", raw(EM_HEAD[:4] + struct.pack("<3i", 19, 1, 1) + EM_HEAD[16:] + bytes(80)), "20 for each"),
    ("a.em", raw(EM_HEAD[:4] + struct.pack("<3i", 2**31 - 1, 2**31 - 1, 9) + EM_HEAD[16:]), "promised"),
    ("a.mod", raw(b"nonsense"), "no IMOD model"),
    ("a.mod", raw(b"imod 1\n"), "text"),
    ("a.mod", raw(b"IMODV1.2" + bytes(232)), "truncated"),
    ("a.mod", raw(b"IMODV1.2" + bytes(232) + b"IEOF"), "no points"),
    ("a.mod", raw(b"IMODV1.2" + bytes(232) + b"CONT" + struct.pack(">iI2i", 2**31 - 1, 0, 0, 0)), "truncated"),
    ("a.mod", raw(b"IMODV1.2" + bytes(232) + b"VIEW" + struct.pack(">i", -5)), "damaged"),
    ("a.csv", text(""), "empty"),
    ("a.csv", text("x,y,z\n"), "lists no particles"),
    ("a.csv", text("CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset\n0.5,0,0,1,0,0,0,0,0,0,1.2\n"), r"PEET.*\.mod"),
    ("a.csv", text("x,y\n1,2\n"), "column z"),
    ("a.csv", text("x,y,z\n1,2,three\n"), "three"),
    ("a.csv", text("x,y,z\n1,2,3,4\n"), "4 values"),
    ("a.csv", text("x,y,z,x\n1,2,3,4\n"), "twice"),
    ("a.csv", text("x,y,z,class\n1,2,3,\n"), "empty in row 1"),
    ("a.csv", text("x,y,z," + ",".join(f"r{i}{j}" for i in "123" for j in "123") + "\n1,2,3" + ",1" * 9 + "\n"), "no rotation"),
    ("a.csv", text("x,y,z,pixel_size\n1,2,3,1e-9\n"), r"pixel size in .*a\.csv is 1e-09 Å \(particle 1\), but must be between"),
    ("a.json", text("{"), "JSON"),
    ("a.json", text("[]"), "pickable_objects"),
    ("a.json", text('{"pickable_objects": []}'), "no picks"),
    ("a.star", text("data_particles\n\nloop_\n_rlnImageName #1\nx.mrc\n"), "no coordinates"),
    ("a.star", text("data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n1 2 3\n"), "size"),
    ("a.xyz", text("1 2 3\n"), "no list of particles"),
]


@pytest.mark.parametrize(("name", "write", "words"), BAD)
def test_bad_files_get_one_sentence(tmp_path: Path, name: str, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / name)
    known = Known(input_voxel_size=None if name == "a.star" else 10.0)
    with pytest.raises(InputError, match=words) as error:
        read_particles(tmp_path / name, known)
    assert "\n" not in str(error.value)


SHIFTED_NOWHERE = [[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "nanometer"}, "nanometer"),
        ({"points": [{"location": {"x": 1, "y": 2}}]}, "location"),
        ({"points": [{"location": {"x": 1, "y": 2, "z": 3}, "transformation_": np.diag([2, 1, 1, 1]).tolist()}]}, "rotation"),
        ({"points": [{"location": {"x": 1, "y": 2, "z": 3}}, {"location": {"x": 1, "y": 2, "z": 3}, "transformation_": SHIFTED_NOWHERE}]}, "point 2"),
        ({"points": 5}, "points"),
        ({"pickable_object_name": None}, "pickable_object_name"),
    ],
)
def test_bad_picks(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_particles(write_copick_project(tmp_path / "a", **change))


def test_nothing_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n")
    source = tmp_path / "a.csv"
    for target, name, words in (
        ("dynamo", "b.tbl", "--voxel-size"),
        ("em", "b.em", "--voxel-size"),
        ("imod", "b.mod", "--voxel-size"),
        ("relion4", "b.star", "--voxel-size"),
    ):
        with pytest.raises(InputError, match=words):
            convert_particles(source, tmp_path / name, target)
    with pytest.raises(InputError, match="--tomogram"):
        convert_particles(source, tmp_path / "b.star", "relion4", Known(voxel_size=10))
    with pytest.raises(InputError, match="--tomograms FOLDER"):
        convert_particles(source, tmp_path / "b", "relion5", Known(tomogram="a"))
    with pytest.raises(InputError, match="--class"):
        convert_particles(source, tmp_path / "b", "copick", Known(tomogram="a"))
    with pytest.raises(InputError, match="--voxel-size"):
        convert_particles(source, tmp_path / "b", "relion5", Known(tomogram="a", tomogram_size=(1, 2, 3)))
    (tmp_path / "c.tbl").write_text(TBL.format("0 0 0") + "\n")
    write_motives(tmp_path / "c.em")
    for name in ("c.tbl", "c.em"):
        with pytest.raises(InputError, match="--input-voxel-size"):
            convert_particles(tmp_path / name, tmp_path / "b.csv", "csv")
    write_model(tmp_path / "c.mod", unit=0)
    with pytest.raises(InputError, match="--input-voxel-size"):
        read_particles(tmp_path / "c.mod")
    write_model(tmp_path / "d.mod", flags=1 << 16)
    with pytest.raises(InputError, match="swapped"):
        read_particles(tmp_path / "d.mod")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "c.em", "c.mod", "c.tbl", "d.mod"]


@pytest.mark.parametrize(
    "options",
    [
        {"voxel_size": 0.0},
        {"input_voxel_size": -1.0},
        {"voxel_size": 1e6},
        {"tomogram_size": (0, 1, 1)},
        {"tomograms": Path("nowhere")},
        {"tomogram": ""},
        {"class_name": " "},
        {"user": ""},
    ],
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Known(**options)


def test_formats_are_recognised(tmp_path: Path) -> None:
    for name, expected in (("a.STAR", "star"), ("a.tbl", "dynamo"), ("a.em", "em"), ("a.mod", "imod"), ("a.csv", "csv"), ("a.json", "copick")):
        (tmp_path / name).touch()
        assert guess_format(tmp_path / name) == expected
    with pytest.raises(InputError, match="does not exist"):
        guess_format(tmp_path / "nothing.star")


# --------------------------------------------------------------------------------------------------------- command line


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_convert_from_the_command_line(tmp_path: Path) -> None:
    source = write_relion_4(tmp_path)
    result = run("convert", source, tmp_path / "five", "--to", "relion5", "--tomogram-size", "400", "500", "600", "--voxel-size", "2")
    assert result.exit_code == 0, result.output
    assert "2 particles in 2 tomograms\n" in result.stdout  # in Å
    assert "give your project's with --tomograms" in result.stderr
    assert sorted(path.name for path in (tmp_path / "five").iterdir()) == ["optimisation_set.star", "particles.star", "tomograms.star"]
    again = run("convert", tmp_path / "five", tmp_path / "table.tbl", "--to", "dynamo")
    assert again.exit_code == 0, again.output
    assert "2 particles in 2 tomograms, in pixels of 2 Å" in again.stdout


def test_the_header_of_a_tomogram_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("triptych.io.particle_lists.frame_of_file", lambda path, size: read.append(path) or frame_of_file(path, size))
    for name in ("TS_1", "TS_2"):
        write_mrc(tmp_path / f"tomograms/{name}.mrc", Volume(np.zeros((4, 5, 6), np.float32), 8.0))
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\nTS_1,1,2,3\nTS_2,1,2,3\nTS_1,2,2,3\n")
    result = run("convert", tmp_path / "a.csv", tmp_path / "a.em", "--to", "em", "--tomograms", tmp_path / "tomograms")
    assert "in pixels of 8 Å" in result.stdout
    assert sorted(read) == [tmp_path / "tomograms/TS_1.mrc", tmp_path / "tomograms/TS_2.mrc"]


def test_many_names_are_numbered_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are numbers is asked once, and not for each of them again."""
    asked = []
    monkeypatch.setattr("triptych.io.numbering.are_numbers", lambda names: asked.append(names) or are_numbers(names))
    assert (number_names(["b", "a", "b"]), number_names(["7", "3"])) == ({"b": 1, "a": 2}, {"7": 7, "3": 3})
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["particles.star", "out.star", "--to", "nonsense"], "choose one"),
        (["particles.star", "out.txt", "--to", "csv"], "ends in .csv"),
        (["particles.star", "out.star", "--to", "relion5"], "folder"),
        (["particles.star", "particles.star", "--to", "relion4"], "exists already"),
        (["particles.star", "out.mod", "--to", "imod", "--voxel-size", "2"], "name a folder"),
        (["particles.star", "out.csv", "--to", "csv", "--tomogram", "x"], "--tomogram"),
        (["particles.star", "out.csv", "--to", "csv", "--class", "x"], "--class"),
        (["nothing.star", "out.csv", "--to", "csv"], "does not exist"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    write_relion_4(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run("convert", *words)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["particles.star"]


def test_a_reconstruction_of_relion_5_is_found_in_its_table(tmp_path: Path) -> None:
    """What was picked from rec_TS_1.mrc lies in the tomogram TS_1, of which the table of tomograms tells (RELION 5 names its files so)."""
    plain = replace(make_particles(3), tomograms=["TS_1"] * 3)
    write_particles(tmp_path / "project", plain, "relion5", KNOWN)
    given = Known(tomograms=tmp_path / "project/tomograms.star")
    write_particles(tmp_path / "picks", replace(plain, tomograms=["rec_TS_1"] * 3), "relion5", given)
    again = read_particles(tmp_path / "picks")
    assert again.tomograms == ["TS_1"] * 3
    assert np.allclose(again.positions, plain.positions)


def test_the_list_of_a_folder_is_found(tmp_path: Path) -> None:
    """Of what pick, predict and orient write, and of RELION's jobs."""
    particles = make_particles(3)
    write_particles(tmp_path / "five", particles, "relion5", KNOWN)
    (tmp_path / "five/optimisation_set.star").unlink()
    assert np.allclose(read_particles(tmp_path / "five").positions, particles.positions)


def test_binnings_follow_the_pixels_that_are_counted(tmp_path: Path) -> None:
    """Picks count the voxels of a binned tomogram; where a project's table tells its unbinned pixels, its file is still as binned as it was."""
    (tmp_path / "picks").mkdir()
    place = {f"rlnCoordinate{axis}": [value] for axis, value in zip("XYZ", [20.0, 10.0, 5.0], strict=True)}
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [10.0]})
    table = pd.DataFrame({"rlnTomoName": ["t"], **place, "rlnOpticsGroup": [1], "rlnTomoTomogramBinning": [1.0]})
    write_star(tmp_path / "picks/particles.star", {"optics": optics, "particles": table})
    write_star(tmp_path / "picks/tomograms.star", {"global": pd.DataFrame([tomogram_row("t", "t.mrc", Frame.of((20, 30, 40), 10.0))])})
    project = tomogram_row("t", "t.mrc", Frame.of((80, 120, 160), 2.5), 4.0)
    write_star(tmp_path / "project.star", {"global": pd.DataFrame([project])})
    particles = read_particles(tmp_path / "picks/particles.star")
    for target, out in (("relion5", "five"), ("relion4", "four.star")):
        write_particles(tmp_path / out, particles, target, Known(tomograms=tmp_path / "project.star"))
        star = tmp_path / out / "particles.star" if target == "relion5" else tmp_path / out
        written = read_star(star)
        assert written["particles"]["rlnTomoTomogramBinning"].tolist() == [4.0]
        # RELION 5 takes the optics from the table of tomograms, but only where the particles' file says nothing of them
        assert ("optics" in written) == (target == "relion4")
        assert read_relion(star).values("rlnTomoTiltSeriesPixelSize").tolist() == [2.5]
    row = read_star(tmp_path / "five/tomograms.star")["global"].iloc[0]
    assert row[["rlnTomoTiltSeriesPixelSize", "rlnTomoTomogramBinning", "rlnTomoSizeX"]].tolist() == [2.5, 4.0, 160]
    again = read_particles(tmp_path / "five")
    assert np.allclose(again.positions, particles.positions)
