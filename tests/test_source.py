"""Where particles are, how they are turned, and how they come as a stream, for every kind of input."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
from fake_predictions import fill_with_zeros
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from triptych.config import PredictConfig
from triptych.errors import InputError
from triptych.io.mrc import bare_stem, write_mrc
from triptych.io.particle_names import unique_names
from triptych.io.particle_source import ParticleSource, number_distinct, voxel_sizes
from triptych.io.readers import READS_PER_MAP, Crops, cut_box
from triptych.io.relion import COORDINATES, angles_from_rotations, particle_columns, read_relion, rotations_from_angles
from triptych.io.relion_particles import particles_from_relion
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.io.store import Rows, create_store
from triptych.io.tilt_stacks import open_tilt_stacks
from triptych.io.tomogram_names import by_name, find_tomogram, tomogram_name
from triptych.io.transfers import stated_ctf
from triptych.missing_wedge import find_missing_wedge
from triptych.particles import Frame
from triptych.tilt_images import TiltOptics, reconstruct
from triptych.transfer import CtfTransfers
from triptych.volume import Volume

CONFIG = PredictConfig()
BOX = 80.0


def open_it(path: Path | str, **settings: Any) -> ParticleSource:
    return open_particles(path, PredictConfig(**settings), BOX)


def write_cube(path: Path, seed: int = 0, n: int = 8, voxel_size: float = 10.0) -> NDArray[np.float32]:
    data = np.random.default_rng(seed).normal(size=(n, n, n)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, Volume(data, voxel_size))
    return data


def write_particles(path: Path, optics: dict[str, Any] | None = None, general: dict[str, Any] | None = None, **columns: Any) -> Path:
    blocks: dict[str, Any] = {} if general is None else {"general": general}
    if optics is not None:
        blocks["optics"] = pd.DataFrame({key: value if isinstance(value, list) else [value] for key, value in optics.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_star(path, {**blocks, "particles": pd.DataFrame(columns)})
    return path


def write_images(folder: Path, count: int = 3, **optics: Any) -> Path:
    for index in range(count):
        write_cube(folder / "images" / f"p{index}.mrc", index)
    return write_particles(
        folder / "particles.star",
        optics={"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0, "rlnImageDimensionality": 3, **optics},
        rlnTomoName=["TS_1"] * count,
        rlnImageName=[f"images/p{index}.mrc" for index in range(count)],
        rlnOpticsGroup=[1] * count,
        other=[f"x{index}" for index in range(count)],
    )


def test_images_are_named_so_that_they_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    source = open_particles(write_images(project), PredictConfig(), 100.0)
    given = source.table["rlnImageName"].tolist()
    for beside in (project / "out", project / "deeper" / "out"):
        assert source.table_for(beside)["rlnImageName"].tolist() == given
    assert source.table_for(tmp_path / "out")["rlnImageName"].tolist() == [f"../project/{name}" for name in given]
    write_images(tmp_path / "other")  # the same names, but other files
    assert source.table_for(tmp_path / "other" / "out")["rlnImageName"][0] == "../../project/images/p0.mrc"
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert source.table_for(tmp_path / "link" / "out")["rlnImageName"][0] == "../../../project/images/p0.mrc"
    absolute = str(project / "images" / "p0.mrc")
    write_particles(project / "particles.star", rlnImageName=[absolute, "1@images/p1.mrc"], rlnImagePixelSize=[10.0] * 2)
    source = open_particles(project / "particles.star", PredictConfig(), 100.0)
    assert source.table_for(tmp_path / "out")["rlnImageName"].tolist() == [absolute, "1@../project/images/p1.mrc"]
    monkeypatch.chdir(project)
    source = open_particles("images", PredictConfig(), 100.0)
    assert source.table_for(Path("out"))["rlnImageName"].tolist() == given
    assert source.table_for(Path("../out"))["rlnImageName"][0] == "../project/images/p0.mrc"


# ------------------------------------------------------------------------------------------------- angles and positions


def relion_matrix(rot: float, tilt: float, psi: float) -> NDArray[np.float64]:
    """RELION's Euler_angles2matrix, written out as three turns of the axes: particle (reference) -> tomogram."""
    a, b, g = np.radians([rot, tilt, psi])
    about_z = lambda t: np.array([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]])  # noqa: E731
    about_y = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    return np.asarray(about_z(g) @ about_y @ about_z(a))


def test_rotation_is_relions_matrix() -> None:
    """It takes the particle's to the tomogram's coordinates, and is the inverse of scipy's intrinsic ZYZ turn."""
    angles = np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (20, 3))
    expected = np.stack([relion_matrix(*angle) for angle in angles])
    np.testing.assert_allclose(rotations_from_angles(angles), expected, atol=1e-12)
    scipy = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(rotations_from_angles(angles), scipy, atol=1e-12)


def test_angles_round_trip() -> None:
    """1,000 random turns within 0.01°, and those where only the sum of two angles is determined."""
    rotations = Rotation.random(1000, random_state=1).as_matrix()
    assert not np.signbit(angles_from_rotations(np.eye(3)[None])).any()  # no "-0.0" in tables
    again = rotations_from_angles(angles_from_rotations(rotations))
    assert np.degrees((Rotation.from_matrix(again) * Rotation.from_matrix(rotations).inv()).magnitude()).max() < 0.01
    special = np.array([[30, 0, 40], [30, 180, 40], [0, 0, 0], [-170, 1e-9, 0], [10, 90, 20]], dtype=float)
    rotations = rotations_from_angles(special)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy warns of the second and the third, but nothing is lost
        found = angles_from_rotations(rotations)
    np.testing.assert_allclose(rotations_from_angles(found), rotations, atol=1e-6)
    assert not found[:4, 2].any()
    angles = np.array([[10.0, 20.0, 30.0]])
    np.testing.assert_allclose(angles_from_rotations(rotations_from_angles(angles)), angles)


def test_unbinned_pixels_of_relion_4(tmp_path: Path) -> None:
    path = write_particles(
        tmp_path / "a.star",
        optics={"rlnOpticsGroup": 1, "rlnTomoTiltSeriesPixelSize": 2.5, "rlnImagePixelSize": 10.0},
        rlnTomoName=["a"], rlnCoordinateX=[100], rlnCoordinateY=[200.5], rlnCoordinateZ=[40], rlnOpticsGroup=[1],
    )  # fmt: skip
    np.testing.assert_allclose(particles_from_relion(path).positions, [[250, 501.25, 100]])
    np.testing.assert_allclose(particles_from_relion(path, coordinate_pixel_size=4).positions, [[400, 802, 160]])


def test_warp_counts_pixels_of_the_export(tmp_path: Path) -> None:
    path = write_particles(
        tmp_path / "a.star",
        rlnMicrographName=["a.tomostar"], rlnCoordinateX=[10], rlnCoordinateY=[20], rlnCoordinateZ=[30],
        rlnMagnification=[10000.0], rlnDetectorPixelSize=[8.0],
    )  # fmt: skip
    file = read_relion(path)
    assert file.is_warp
    np.testing.assert_allclose(file.coordinates()[0], [[80, 160, 240]])
    assert file.image_voxel_size() == pytest.approx([8.0])


@pytest.mark.parametrize("optics", [None, {"rlnOpticsGroup": 1, "rlnImagePixelSize": 5.0}])
def test_warp_1_calls_the_tilt_series_by_its_reconstruction(optics: dict[str, Any] | None, tmp_path: Path) -> None:
    """Its exports count pixels of the export, too: those of picks at 12.5 Å that it exports at 5 Å are whole multiples of 2.5."""
    place = {f"rlnCoordinate{axis}": [25.0] for axis in "XYZ"}
    name = "../warp/mrc/reconstruction/0243_12.50Apx.mrc"
    path = write_particles(tmp_path / "a.star", optics, rlnMicrographName=[name], rlnPixelSize=[5.0], rlnOpticsGroup=[1], **place)
    assert read_relion(path).is_warp
    np.testing.assert_allclose(particles_from_relion(path).positions, [[125, 125, 125]])
    # a tomogram of Warp in a list that states the pixels of the tilt series
    unbinned = {"rlnOpticsGroup": 1, "rlnImagePixelSize": 5.0, "rlnTomoTiltSeriesPixelSize": 1.25}
    path = write_particles(tmp_path / "b.star", unbinned, rlnTomoName=[name], rlnOpticsGroup=[1], **place)
    assert not read_relion(path).is_warp
    np.testing.assert_allclose(particles_from_relion(path).positions, [[31.25, 31.25, 31.25]])


def write_fractions(folder: Path, **columns: Any) -> Path:
    """As WarpTools' template matching writes them (WarpLib, TiltSeries.MatchFull: position / VolumeDimensionsPhysical)."""
    place = {"rlnCoordinateX": [0.25, 0.5], "rlnCoordinateY": [0.5, 0.0], "rlnCoordinateZ": [0.75, 0.5]}
    names = {"rlnMicrographName": ["TS_1.tomostar"] * 2}
    return write_particles(folder / "p.star", **(place | names | {"rlnAutopickFigureOfMerit": [7.0, 6.0]} | columns))


def test_fractions_of_the_tomogram(tmp_path: Path) -> None:
    path = write_fractions(tmp_path)
    with pytest.raises(InputError, match="fractions"):
        particles_from_relion(path)
    found = particles_from_relion(path, find_frames=lambda names: {name: Frame((40, 30, 20), 10.0) for name in names})
    np.testing.assert_allclose(found.positions, [[100, 150, 150], [200, 0, 100]])
    sizes = {"rlnTomoTiltSeriesPixelSize": [2.5], "rlnTomoSizeX": [160], "rlnTomoSizeY": [120], "rlnTomoSizeZ": [80]}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["TS_1"], **sizes})})
    np.testing.assert_allclose(particles_from_relion(path).positions, found.positions)
    (tmp_path / "tomograms.star").unlink()
    # cut out of the tomogram, and in what is written of it, which names the tomogram
    make_tomogram(tmp_path / "tomograms", "TS_1_10.00Apx.mrc")
    source = open_it(path, tomograms=tmp_path / "tomograms")
    assert "fractions" in source.description
    assert [source.read(row).data[4, 4, 4] for row in range(2)] == [151510, 100020]
    write_star(tmp_path / "again.star", source.blocks_with(source.table_for(tmp_path)))
    np.testing.assert_allclose(particles_from_relion(tmp_path / "again.star").positions, found.positions)


@pytest.mark.parametrize("columns", [{"rlnCoordinateX": [0.25, 1.5]}, {"rlnPixelSize": [10.0] * 2}, {"rlnMicrographName": ["TS_1"] * 2}])
def test_pixels_within_the_first_are_no_fractions(columns: dict[str, Any], tmp_path: Path) -> None:
    assert not read_relion(write_fractions(tmp_path, **columns)).counts_fractions


def test_origins_are_turned_and_subtracted(tmp_path: Path) -> None:
    angles = (30.0, 60.0, -50.0)
    path = write_particles(
        tmp_path / "a.star",
        rlnTomoName=["a"], rlnCoordinateX=[10], rlnCoordinateY=[20], rlnCoordinateZ=[30], rlnPixelSize=[2.0],
        rlnOriginXAngst=[1.0], rlnOriginYAngst=[-2.0], rlnOriginZAngst=[5.0],
        rlnTomoSubtomogramRot=[angles[0]], rlnTomoSubtomogramTilt=[angles[1]], rlnTomoSubtomogramPsi=[angles[2]],
        rlnAngleRot=[5.0], rlnAngleTilt=[6.0], rlnAnglePsi=[7.0],
    )  # fmt: skip
    particles = particles_from_relion(path)
    matrix = relion_matrix(*angles)
    np.testing.assert_allclose(particles.positions, [[20, 40, 60] - matrix @ [1, -2, 5]])
    np.testing.assert_allclose(particles.rotations, [matrix @ relion_matrix(5, 6, 7)], atol=1e-12)


def test_origins_in_pixels_of_relion_3(tmp_path: Path) -> None:
    columns = {f"rlnCoordinate{axis}": [10.0] for axis in "XYZ"} | {f"rlnOrigin{axis}": [1.0] for axis in "XYZ"}
    path = write_particles(tmp_path / "a.star", rlnMicrographName=["a.mrc"], rlnPixelSize=[3.0], **columns)
    np.testing.assert_allclose(particles_from_relion(path).positions, [[27, 27, 27]])


def write_centered(folder: Path, **columns: Any) -> Path:
    """A RELION 5 particle in a tomogram of 400 x 300 x 200 unbinned pixels of 2.5 Å."""
    sizes = {"rlnTomoSizeX": [400], "rlnTomoSizeY": [300], "rlnTomoSizeZ": [200]}
    write_star(folder / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"], "rlnTomoTiltSeriesPixelSize": [2.5], **(sizes | columns)})})
    place = {"rlnCenteredCoordinateXAngst": [10.0], "rlnCenteredCoordinateYAngst": [-20.0], "rlnCenteredCoordinateZAngst": [0.0]}
    return write_particles(folder / "particles.star", rlnTomoName=["a"], **place)


def test_relion_5_counts_from_half_the_size(tmp_path: Path) -> None:
    """N / 2 unbinned pixels, as RELION's C++; not N / 2 - 1."""
    path = write_centered(tmp_path)
    np.testing.assert_allclose(particles_from_relion(path).positions, [[510, 355, 250]])
    assert read_relion(path).dialect == "RELION 5"
    write_star(tmp_path / "set.star", {"": {"rlnTomoParticlesFile": "particles.star", "rlnTomoTomogramsFile": "tomograms.star"}})
    np.testing.assert_allclose(particles_from_relion(tmp_path / "set.star").positions, [[510, 355, 250]])
    (tmp_path / "tomograms.star").unlink()
    with pytest.raises(InputError, match=r"tomograms\.star"):
        particles_from_relion(path)


def test_sizes_of_tomograms_that_are_text_are_found_in_the_table_of_tomograms(tmp_path: Path) -> None:
    """None, as programs in Python write it, is no size; of a tomogram without particles that does not matter."""
    rows = {"rlnTomoName": ["a", "b"], "rlnTomoTiltSeriesPixelSize": [2.5, 2.5], **{f"rlnTomoSize{axis}": [400, 400] for axis in "YZ"}}
    star = write_centered(tmp_path, **rows, rlnTomoSizeX=["400", "None"])
    assert np.allclose(read_relion(star).tomogram_centers(), 500)
    write_centered(tmp_path, **rows, rlnTomoSizeX=["400", "wide"])
    for read in (lambda: read_relion(star).tomogram_centers(), lambda: particles_from_relion(star)):
        with pytest.raises(InputError, match=r'rlnTomoSizeX of .*tomograms\.star is "wide" in row 2'):
            read()


def test_relion_5_with_sizes_that_are_not_known(tmp_path: Path) -> None:
    """RELION writes -999 for them: no centre is made from that. To cut boxes out, the tomogram's own header will do."""
    path = write_centered(tmp_path, rlnTomoSizeX=[-999], rlnTomoSizeY=[-999], rlnTomoSizeZ=[-999])
    with pytest.raises(InputError, match="states the sizes of all"):
        particles_from_relion(path)
    assert read_relion(path).tomogram_centers() is None
    data = write_cube(tmp_path / "a.mrc", n=40, voxel_size=2.5)
    source = open_particles(path, PredictConfig(), 20.0)
    np.testing.assert_array_equal(source.read(0).data, data[16:24, 8:16, 20:28])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rlnCoordinateX": [1.0], "rlnCoordinateY": [1.0]}, "rlnCoordinateZ"),
        ({"rlnCoordinateX": [1.0], "rlnCoordinateY": [1.0], "rlnCoordinateZ": [1.0]}, "coordinate_pixel_size"),
        ({"rlnCoordinateX": ["x"], "rlnCoordinateY": [1.0], "rlnCoordinateZ": [1.0]}, 'rlnCoordinateX of .* is "x" in row 1'),
        ({"rlnCoordinateX": [np.nan], "rlnCoordinateY": [1.0], "rlnCoordinateZ": [1.0]}, "is nan in row 1"),
        ({"rlnCoordinateX": [1.0], "rlnCoordinateY": [1.0], "rlnCoordinateZ": [1.0], "rlnPixelSize": [0.0]}, "must be between"),
        ({"rlnCoordinateX": [1.0], "rlnCoordinateY": [1.0], "rlnCoordinateZ": [1.0], "rlnPixelSize": [1e-9]}, "must be between"),
        (
            {label: [1.0] for label in COORDINATES} | {"rlnDetectorPixelSize": [5.0], "rlnMagnification": [0.0]},
            "rlnDetectorPixelSize over rlnMagnification of .* is inf",
        ),
    ],
)
def test_coordinates_that_cannot_be_used(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = write_particles(tmp_path / "a.star", rlnTomoName=["a"], **columns)
    with pytest.raises(InputError, match=message):
        open_it(path)


# --------------------------------------------------------------------------------------------------- STAR file of images


@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_optimisation_sets(kind: type, tmp_path: Path) -> None:
    """RELION 5's C++ writes a list of pairs, its pickers (Python, starfile) a table of one row."""

    def write(rows: int = 1, **files: str) -> Path:
        write_star(tmp_path / "set.star", {"optimisation_set": pd.DataFrame([files] * rows) if kind is pd.DataFrame else files})
        return tmp_path / "set.star"

    write_coordinates(tmp_path, [1.0], [2.0], [3.0])
    file = read_relion(write(rlnTomoParticlesFile="p.star", rlnTomoTomogramsFile="nowhere.star"))
    assert (file.path, len(file)) == (tmp_path / "p.star", 1)
    with pytest.raises(InputError, match="without particles"):
        read_relion(write(rlnTomoTomogramsFile="tomograms.star"))
    if kind is pd.DataFrame:
        with pytest.raises(InputError, match="2 rows"):
            read_relion(write(2, rlnTomoParticlesFile="p.star"))


def test_images_of_a_star_file(tmp_path: Path) -> None:
    source = open_it(write_images(tmp_path))
    assert (source.kind, len(source), source.names, source.contrast) == ("star", 3, ["p0", "p1", "p2"], None)
    assert list(source.table.columns) == ["rlnTomoName", "rlnImageName", "rlnOpticsGroup", "other"]
    assert source.optics is not None
    volume = source.read(2)
    assert np.array_equal(volume.data, write_cube(tmp_path / "x.mrc", 2))
    assert volume.voxel_size == 10
    assert list(source.blocks_with(source.table)) == ["optics", "particles"]


def test_paths_from_the_root_of_the_project(tmp_path: Path) -> None:
    for index in range(2):
        write_cube(tmp_path / "Extract" / "job1" / f"TS_{index}" / "1_data.mrc", index)
    path = write_particles(
        tmp_path / "Refine" / "job2" / "run_data.star",
        optics={"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0},
        rlnTomoName=["TS_0", "TS_1"], rlnImageName=[f"Extract/job1/TS_{index}/1_data.mrc" for index in range(2)], rlnOpticsGroup=[1, 1],
    )  # fmt: skip
    source = open_it(path)
    assert source.names == ["TS_0_1_data", "TS_1_1_data"]
    assert np.array_equal(source.read(1).data, write_cube(tmp_path / "x.mrc", 1))


def test_numbered_images_of_stacks(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((3, 8, 8, 8)).astype("f4")
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(data)
        file.voxel_size = 10
    source = open_it(write_particles(tmp_path / "a.star", rlnImageName=["000003@a.mrcs", "1@a.mrcs"], rlnTomoName=["t", "t"]))
    assert np.array_equal(source.read(0).data, data[2])
    assert source.names == ["a_000003", "a_000001"]
    assert np.array_equal(open_it(tmp_path / "a.mrcs").read(1).data, data[1])
    with pytest.raises(InputError, match="volume 4"):
        open_it(write_particles(tmp_path / "a.star", rlnImageName=["1@a.mrcs", "4@a.mrcs"]))


@pytest.mark.parametrize(("settings", "warns"), [({}, True), ({"voxel_size": 10.0}, False)])
def test_a_pixel_size_of_one_is_doubted(settings: dict[str, Any], warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_particles(write_images(tmp_path, rlnImagePixelSize=1.0), PredictConfig(**settings), 100.0)
    assert ("never set" in caplog.text) == warns


def test_stated_voxel_size_wins_over_the_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_images(tmp_path, rlnImagePixelSize=12.0)
    with caplog.at_level(logging.WARNING):
        source = open_it(path)
    assert "states 12 Å" in caplog.text
    assert source.read(0).voxel_size == 12
    assert voxel_sizes(source, source.read(0)) == [12]
    caplog.clear()
    assert open_it(path, voxel_size=9.0).read(0).voxel_size == 9
    assert "states 10 Å per voxel, but 9 Å is used as set" in caplog.text


def test_header_without_voxel_size_will_do_where_the_star_file_states_it(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    with mrcfile.open(tmp_path / "images" / "p1.mrc", "r+") as file:
        file.voxel_size = 0
    assert open_it(path).read(1).voxel_size == 10
    with pytest.raises(InputError, match="--set voxel_size="):
        open_it(tmp_path / "images")
    assert open_it(tmp_path / "images", voxel_size=10).read(1).voxel_size == 10


def test_two_optics_groups(tmp_path: Path) -> None:
    optics = {"rlnOpticsGroup": [7, 3], "rlnImagePixelSize": [10.0, 5.0]}
    write_cube(tmp_path / "a.mrc")
    columns = {"rlnImageName": ["a.mrc"] * 3, "rlnOpticsGroup": [3, 7, 3]}
    source = open_it(write_particles(tmp_path / "p.star", optics=optics, **columns), voxel_size=None)
    assert [source.read(index).voxel_size for index in range(3)] == [5, 10, 5]
    assert len(set(source.names)) == 3
    with pytest.raises(InputError, match=r"row 2 .* optics group 4"):
        open_it(write_particles(tmp_path / "p.star", optics=optics, rlnImageName=["a.mrc"] * 2, rlnOpticsGroup=[3, 4]))


@pytest.mark.parametrize(("label", "block"), [("rlnOpticsGroup", "optics"), ("rlnTomoName", "global")])
def test_what_a_joined_table_says_twice_must_be_the_same(label: str, block: str, tmp_path: Path) -> None:
    """The last row would count for the particles of both."""
    key = 1 if label == "rlnOpticsGroup" else "TS_1"
    place = {"rlnTomoName": ["TS_1"] * 2, "rlnOpticsGroup": [1] * 2, **{f"rlnCoordinate{axis}": [10.0, 20.0] for axis in "XYZ"}}
    for sizes in ([2.0, 2.0], [2.0, 4.0]):
        table = pd.DataFrame({label: [key] * 2, "rlnTomoTiltSeriesPixelSize": sizes})
        write_star(tmp_path / "a.star", {block: table, "particles": pd.DataFrame(place)})
        if sizes[0] == sizes[1]:
            assert read_relion(tmp_path / "a.star").coordinates()[0].tolist() == [[20.0] * 3, [40.0] * 3]
        else:
            with pytest.raises(InputError, match=rf"{label} {key} is in two rows of .*a\.star that differ"):
                read_relion(tmp_path / "a.star").coordinates()


def test_a_list_of_predictions_of_a_dataset_names_no_subtomograms(tmp_path: Path) -> None:
    write_star(tmp_path / "chosen.star", {"particles": pd.DataFrame({"triptychName": ["particle_1"], "triptychClass": ["a"]})})
    with pytest.raises(InputError, match=r"chosen\.star lists predictions of a dataset by name .*: predict the dataset itself"):
        open_it(tmp_path / "chosen.star")


def test_tables_of_one_row_may_be_lists_of_pairs(tmp_path: Path) -> None:
    """As starfile wrote them before version 0.5."""
    write_cube(tmp_path / "a.mrc", voxel_size=1.0)
    optics = {"rlnOpticsGroupName": "one", "rlnOpticsGroup": 1, "rlnImagePixelSize": 12.0, "rlnTomoTiltSeriesPixelSize": 3.0}
    write_star(tmp_path / "p.star", {"optics": optics, "particles": {"rlnImageName": "a.mrc", "rlnOpticsGroup": 1}})
    assert open_it(tmp_path / "p.star").read(0).voxel_size == 12
    sizes = {"rlnTomoName": "TS_1", "rlnTomoTiltSeriesPixelSize": 2.5, **{f"rlnTomoSize{axis}": 400 for axis in "XYZ"}}
    write_star(tmp_path / "tomograms.star", {"global": sizes})
    place = {"rlnTomoName": "TS_1", **{f"rlnCenteredCoordinate{axis}Angst": 10.0 for axis in "XYZ"}}
    write_star(tmp_path / "particles.star", {"particles": place})
    assert np.allclose(particles_from_relion(tmp_path / "particles.star").positions, 510)


def test_bad_images(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    image = tmp_path / "images" / "p1.mrc"
    whole = image.read_bytes()
    image.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"p1\.mrc is truncated"):
        open_it(path)
    write_mrc(image, Volume(np.zeros((8, 8, 9), dtype="f4"), 10.0))
    with pytest.raises(InputError, match="9 x 8 x 8 voxels"):
        open_it(path)
    image.unlink()
    with pytest.raises(InputError, match=r"row 2 of .* names the image images/p1\.mrc"):
        open_it(path)
    image.write_bytes(whole[:1024] + np.float32("nan").tobytes() + whole[1028:])
    with pytest.raises(InputError, match="NaN"):
        open_it(path).read(1)


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        open_it(path)
    path.write_text("data_particles\n\nloop_\n_rlnImageName #1\n")
    with pytest.raises(InputError, match="no particles"):
        open_it(path)
    path.write_text("data_job\n\n_rlnJobType 3\n")
    with pytest.raises(InputError, match="no table of particles"):
        open_it(path)


@pytest.mark.parametrize("how", ["general", "optics"])
def test_tilt_stacks_without_projections_are_refused(tmp_path: Path, how: str) -> None:
    write_cube(tmp_path / "a.mrcs")
    optics = {"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0, "rlnImageDimensionality": 2 if how == "optics" else 3}
    general = {"rlnTomoSubTomosAre2DStacks": 1} if how == "general" else None
    path = write_particles(tmp_path / "a.star", optics=optics, general=general, rlnImageName=["a.mrcs"], rlnOpticsGroup=[1])
    with pytest.raises(InputError, match="3-D subtomograms"):
        open_it(path)


# ---------------------------------------------------------------------------------------------- coordinates and tomograms


def make_tomogram(folder: Path, name: str = "TS_1.mrc", voxel_size: float = 10.0, shape: tuple[int, int, int] = (20, 30, 40)) -> NDArray[np.float32]:
    """Each voxel holds its place: 10000 z + 100 y + x."""
    z, y, x = np.indices(shape)
    data = (10000 * z + 100 * y + x).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    write_mrc(folder / name, Volume(data, voxel_size))
    return data


def write_coordinates(folder: Path, x: list[float], y: list[float], z: list[float], names: list[str] | None = None, **columns: Any) -> Path:
    place = {"rlnCoordinateX": x, "rlnCoordinateY": y, "rlnCoordinateZ": z}
    optics = {"rlnOpticsGroup": 1, "rlnTomoTiltSeriesPixelSize": 2.5}
    return write_particles(folder / "p.star", optics=optics, rlnTomoName=names or ["TS_1"] * len(x), rlnOpticsGroup=[1] * len(x), **place, **columns)


def test_cubes_are_cut_around_the_particle(tmp_path: Path) -> None:
    make_tomogram(tmp_path / "tomograms")
    # voxels (15.25, 12, 9.75): unbinned pixels of 2.5 Å, tomogram of 10 Å
    source = open_it(write_coordinates(tmp_path, [61.0], [48.0], [39.0]), tomograms=tmp_path / "tomograms")
    volume = source.read(0)
    assert source.kind == "coordinates"
    assert volume.shape == (8, 8, 8)
    assert volume.data[4, 4, 4] == 10000 * 10 + 100 * 12 + 15
    assert volume.origin == (110.0, 80.0, 60.0)
    np.testing.assert_allclose(source.offsets, [[2.5, 0, -2.5]])
    assert source.names == ["TS_1_000001"]
    assert "2.5 Å" in source.description


def test_cubes_over_the_border_are_padded_with_the_mean(tmp_path: Path) -> None:
    data = make_tomogram(tmp_path)
    volume = open_it(write_coordinates(tmp_path, [0.0], [0.0], [0.0])).read(0)
    assert np.array_equal(volume.data[4:, 4:, 4:], data[:4, :4, :4])
    assert volume.data[0, 0, 0] == pytest.approx(data[:4, :4, :4].mean())
    with pytest.raises(InputError, match="outside"):
        cut_box(data, np.array([-4, 5, 5]), (8, 8, 8))


def test_particle_outside_its_tomogram(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tomogram(tmp_path)
    with pytest.raises(InputError, match=r"row 2 of .*p\.star .* lies outside .*TS_1\.mrc"):
        open_it(write_coordinates(tmp_path, [10.0, 1000.0], [10.0, 10.0], [10.0, 10.0]))
    with caplog.at_level(logging.WARNING):
        open_it(write_coordinates(tmp_path, [-8.0], [10.0], [10.0]))
    assert "centres of 1 of 1" in caplog.text


@pytest.mark.parametrize("x", [-4.6, -4.4, -3.6, -3.4, 3.0])
@pytest.mark.parametrize("from_the_end", [False, True])
def test_what_opens_can_be_read(x: float, from_the_end: bool, tmp_path: Path) -> None:
    """A box of 8 voxels at each edge of a tomogram: it is refused at once where it has no voxel in common with it."""
    width = make_tomogram(tmp_path).shape[2]
    middle = width - 1 - x if from_the_end else x
    path = write_coordinates(tmp_path, [40.0, 4 * middle], [40.0] * 2, [40.0] * 2)
    low = int(np.floor(middle + 0.5)) - 4
    if low + 8 <= 0 or low >= width:
        with pytest.raises(InputError, match=r"row 2 .* lies outside"):
            open_it(path)
    else:
        assert open_it(path).read(1).shape == (8, 8, 8)


def test_one_tomogram_at_a_time(tmp_path: Path) -> None:
    for index in range(3):
        make_tomogram(tmp_path, f"TS_{index}.mrc")
    source = open_it(write_coordinates(tmp_path, [40.0] * 4, [40.0] * 4, [40.0] * 4, ["TS_0", "TS_2", "TS_1", "TS_0"]))
    reader: Any = source.reader
    assert reader.mapped is None
    for index, number in enumerate((0, 1, 2, 0)):
        source.read(index)
        assert reader.mapped[0] == number
    for _ in range(40):
        source.read(3)
    assert reader.reads <= READS_PER_MAP
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301  goes to worker processes without the mapped file
    assert again.mapped is None
    assert np.array_equal(again.read(1).data, source.read(1).data)


def test_particles_that_show_the_same_are_told(tmp_path: Path) -> None:
    """Rows of one image, boxes of one place (30 Å decide), and of a dataset several boxes of one particle; nothing across tomograms."""
    for name in ("TS_0", "TS_1"):
        make_tomogram(tmp_path, f"{name}.mrc")
    cut = open_it(write_coordinates(tmp_path, [40.0, 42.0, 40.0, 40.0, 52.0], [40.0] * 5, [40.0] * 5, ["TS_0", "TS_0", "TS_1", "TS_0", "TS_1"]))
    assert number_distinct(cut).tolist() == [0, 0, 1, 0, 2]
    assert number_distinct(cut.take(np.array([4, 3, 0]))).tolist() == [0, 1, 1]
    images = open_it(write_images(tmp_path / "images"))
    assert number_distinct(images).tolist() == [0, 1, 2]
    assert number_distinct(images.take(np.array([2, 1, 2]))).tolist() == [0, 1, 0]
    store = create_store(tmp_path / "a.zarr", Rows(3, 1), Rows(0, 0), 10.0, 8, ("a",), {})
    fill_with_zeros(store)
    for places, distinct in (([0.0, 0, 0], [0, 1, 2]), ([500.0, 10, 500], [0, 1, 0])):  # nothing is known of the first
        store.write("position", 0, np.array(places, np.float32)[:, None] * np.ones(3, np.float32))
        assert number_distinct(open_it(tmp_path / "a.zarr")).tolist() == distinct


def test_the_contrast_of_picks_is_known_from_their_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("TS_1.mrc", "TS_2.mrc"):
        make_tomogram(tmp_path, name)
    star = write_coordinates(tmp_path, [40.0] * 2, [40.0] * 2, [40.0] * 2, ["TS_1", "TS_2"])
    manifests = [
        ({"stage": "pick", "config": {"contrast": "auto"}, "contrast": {"TS_1": "bright", "TS_2": "bright"}}, "bright"),
        ({"stage": "simulate-tomograms", "config": {"contrast": "dark"}}, "dark"),
        ({"stage": "predict", "config": {"contrast": "auto"}, "particles": {"contrast": "bright"}}, "bright"),
        ({"made": "by another program"}, None),
        ({"stage": "pick", "config": {"contrast": "auto"}, "contrast": {"TS_1": "bright", "TS_2": "dark"}}, None),
    ]
    assert open_it(star).contrast is None
    for manifest, contrast in manifests:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert open_it(star).contrast == contrast
    assert "picked from tomograms of both contrasts" in caplog.text


def test_the_contrast_of_picks_is_known_from_their_table_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("TS_1.mrc", "TS_2.mrc"):
        make_tomogram(tmp_path, name)
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "pick", "contrast": {"TS_1": "dark", "TS_2": "dark"}}))
    for contrasts, known in ((["bright", "bright"], "bright"), (["bright", "dark"], None)):
        star = write_coordinates(tmp_path, [40.0] * 2, [40.0] * 2, [40.0] * 2, ["TS_1", "TS_2"], triptychContrast=contrasts)
        assert open_it(star).contrast == known


def test_threads_do_not_take_the_tomograms_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tomogram(tmp_path, "TS_0.mrc")
    write_mrc(tmp_path / "TS_1.mrc", Volume(-data, 10.0))
    source = open_it(write_coordinates(tmp_path, [40.0] * 2, [40.0] * 2, [40.0] * 2, ["TS_0", "TS_1"]))
    reader: Any = source.reader
    true = source.read(1).data
    source.read(0)
    other = reader.mapped
    # what another thread may do at any moment, such as when this one has counted its read
    monkeypatch.setattr(type(reader), "reads", property(lambda _: 0, lambda self, _: setattr(self, "mapped", other)))
    assert np.array_equal(source.read(1).data, true)


def test_relion_5_particle_in_its_tomogram(tmp_path: Path) -> None:
    data = make_tomogram(tmp_path / "Reconstruct", "rec_a.mrc", 10.0, (50, 75, 100))
    path = write_centered(tmp_path, rlnTomoReconstructedTomogram=["Reconstruct/rec_a.mrc"], rlnTomoTomogramBinning=[4.0])
    volume = open_it(path).read(0)
    assert volume.data[4, 4, 4] == data[25, 36, 51]  # 510, 355, 250 Å over 10 Å; 35.5 and 36 tie, half goes up
    (tmp_path / "tomograms.star").unlink()
    assert open_it(path, tomograms=tmp_path / "Reconstruct").read(0).data[4, 4, 4] == data[25, 36, 51]


def test_places_from_the_corner_tell_the_centre_of_a_binned_tomogram(tmp_path: Path) -> None:
    """Its tilt series has no whole number of its voxels, so that half of its own sides is another place."""
    write_mrc(tmp_path / "a.mrc", Volume(np.random.default_rng(0).normal(size=(64, 63, 64)).astype(np.float32), 10.0))
    places = np.array([[320.0, 310.0, 330.0], [201.0, 300.0, 250.0]])
    series = Frame((516, 508, 516), 1.25)
    columns = particle_columns(places, np.broadcast_to(np.eye(3), (2, 3, 3)), series)
    stated = {"rlnTomoName": ["a", "a"], "rlnTomoReconstructedTomogram": "a.mrc", "rlnTomoTiltSeriesPixelSize": 1.25, "rlnTomoTomogramBinning": 8.0}
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({**stated, **columns})})
    source = open_particles(tmp_path / "particles.star", PredictConfig(), 80.0)
    assert isinstance(source.reader, Crops)
    assert source.offsets is not None
    assert np.allclose(source.reader.centers[:, ::-1] * 10.0 + source.offsets, places)
    assert np.allclose(particles_from_relion(tmp_path / "particles.star").positions, places)


def test_voxel_size_of_a_tomogram(tmp_path: Path) -> None:
    make_tomogram(tmp_path)
    with mrcfile.open(tmp_path / "TS_1.mrc", "r+") as file:
        file.voxel_size = 1
    path = write_coordinates(tmp_path, [40.0], [40.0], [40.0])
    with pytest.raises(InputError, match="--set tomogram_voxel_size="):
        open_it(path)
    assert open_it(path, tomogram_voxel_size=10).read(0).data[4, 4, 4] == 101010
    with pytest.raises(InputError, match="box of 80 Å has 800 voxels"):
        open_it(path, tomogram_voxel_size=0.1)


def test_names_of_tomograms(tmp_path: Path) -> None:
    names = ("TS_1.mrc", "TS_10_bin4.rec", "rec_TS_2.mrc", "rec_TS_2_half1.mrc", "TS_3_8.00Apx.mrc", "x_a.mrc", "x_b.mrc")
    files = [tmp_path / name for name in names]
    of_warp = (("TS_1.tomostar", 0), ("TS_1_10.00Apx.mrc", 0), ("TS_3.tomostar", 4), ("TS_3_8.00Apx.mrc", 4))
    for name, found in (("TS_1", 0), ("tomos/TS_10.mrc", 1), ("TS_2", 2), *of_warp):
        assert find_tomogram(name, by_name(files), tmp_path) == files[found]
    with pytest.raises(InputError, match="no tomogram called TS_4"):
        find_tomogram("TS_4", by_name(files), tmp_path)
    with pytest.raises(InputError, match=r"2 files .* could be the tomogram x"):
        find_tomogram("x", by_name(files), tmp_path)
    # Position_1_2 is the second target at the first position: a tomogram of its own
    targets = [tmp_path / name for name in ("Position_1_10.00Apx.mrc", "Position_1_2_10.00Apx.mrc", "Position_2_2_rec.mrc", "Position_3_rec.mrc")]
    for name, found in (("Position_1", 0), ("Position_1.tomostar", 0), ("Position_1_2", 1), ("Position_2_2", 2), ("Position_3", 3)):
        assert find_tomogram(name, by_name(targets), tmp_path) == targets[found]
    with pytest.raises(InputError, match="no tomogram called Position_2 "):
        find_tomogram("Position_2", by_name(targets), tmp_path)
    with pytest.raises(InputError, match=f"is in {Path.cwd()} "):  # not in "."
        find_tomogram("x", [], Path())


def test_files_are_looked_at_once_for_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for each of them again, which takes half a minute for 1,800 tomograms."""
    names, seen = [f"TS_{number}" for number in range(12)], []
    for name in names:
        make_tomogram(tmp_path, f"{name}.mrc")
    monkeypatch.setattr("triptych.io.tomogram_names.tomogram_name", lambda path: seen.append(path) or tomogram_name(path))
    assert len(open_it(write_coordinates(tmp_path, *[[40.0] * 12] * 3, names=names))) == 12
    assert len(seen) == 12


def test_names_of_tomograms_are_understood_once_for_all_particles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("many_1", "many_2"):
        make_tomogram(tmp_path, f"{name}.mrc")
    star = write_coordinates(tmp_path, [20.0] * 200, [15.0] * 200, [10.0] * 200, ["many_1", "many_2"] * 100, rlnPixelSize=10.0)
    calls: list[str] = []
    monkeypatch.setattr("triptych.io.tomogram_names.bare_stem", lambda name: calls.append(str(name)) or bare_stem(name))
    assert open_it(star).names[199] == "many_2_000200"
    assert len(calls) < 50
    file = read_relion(star)
    assert file.tomogram_names is file.tomogram_names  # which `triptych info` asks for with each tomogram


def test_tomograms_may_be_named_by_a_table_or_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("first", "second"):
        make_tomogram(tmp_path / "deep", f"{name}.mrc")
    path = write_coordinates(tmp_path, [40.0], [40.0], [40.0])
    table = pd.DataFrame({"rlnTomoName": ["TS_1"], "rlnTomoReconstructedTomogram": ["deep/second.mrc"]})
    write_star(tmp_path / "listed.star", {"global": table})
    assert open_it(path, tomograms=tmp_path / "listed.star").files[1].name == "second.mrc"
    write_star(tmp_path / "listed.star", {"global": table.assign(rlnTomoName="TS_2")})
    with pytest.raises(InputError, match=r"listed\.star does not list the tomogram TS_1"):
        open_it(path, tomograms=tmp_path / "listed.star")
    with pytest.raises(InputError, match="a tomogram, a folder of tomograms, or a table of them"):
        open_it(path, tomograms=write_text(tmp_path / "a.txt"))
    assert not caplog.records
    assert open_it(path, tomograms=tmp_path / "deep" / "first.mrc").files[1].name == "first.mrc"
    assert "are said to be in the tomogram TS_1, but are looked for in" in caplog.text


def write_text(path: Path) -> Path:
    path.write_text("text")
    return path


def test_missing_and_compressed_tomograms(tmp_path: Path) -> None:
    path = write_coordinates(tmp_path, [40.0], [40.0], [40.0])
    with pytest.raises(InputError, match="no tomogram called TS_1"):
        open_it(path)
    with pytest.raises(InputError, match="does not exist"):
        open_it(path, tomograms=tmp_path / "nowhere")
    make_tomogram(tmp_path)
    whole = open_it(path).read(0).data
    (tmp_path / "TS_1.mrc.gz").write_bytes(gzip.compress((tmp_path / "TS_1.mrc").read_bytes()))
    (tmp_path / "TS_1.mrc").unlink()
    assert np.array_equal(open_it(path).read(0).data, whole)


def test_the_table_that_names_a_tomogram_knows_its_voxel_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after picking with another one than the header's. Another file, which may be binned differently, knows its own."""
    make_tomogram(tmp_path, voxel_size=5.0)
    path = write_coordinates(tmp_path, [36.0], [32.0], [28.0])
    about = {"rlnTomoName": ["TS_1"], "rlnTomoTiltSeriesPixelSize": [2.5], "rlnTomoTomogramBinning": [4.0]}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({**about, "rlnTomoReconstructedTomogram": ["TS_1.mrc"]})})
    source = open_it(path)
    out = tmp_path / "elsewhere"  # where no table of tomograms lies
    write_star(out / "particles.star", source.blocks_with(source.table_for(out)))
    for volume in (source.read(0), open_it(out / "particles.star").read(0)):
        assert (volume.voxel_size, volume.shape, volume.data[4, 4, 4]) == (10.0, (8, 8, 8), 70809)
    assert "taken to have 10 Å per voxel, but the file itself states 5 Å" in caplog.text
    volume = open_it(path, tomograms=tmp_path).read(0)
    assert (volume.voxel_size, volume.shape, volume.data[8, 8, 8]) == (5.0, (16, 16, 16), 141618)
    assert "taken to have 5 Å per voxel, but the table of tomograms states 10 Å" in caplog.text
    unset = about | {"rlnTomoTomogramBinning": [0.0]}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({**unset, "rlnTomoReconstructedTomogram": ["TS_1.mrc"]})})
    assert open_it(path).read(0).voxel_size == 5.0


def test_images_or_tomograms(tmp_path: Path) -> None:
    """With both at hand the images are read, unless the tomograms are asked for."""
    make_tomogram(tmp_path / "tomograms")
    write_cube(tmp_path / "a.mrc")
    path = write_coordinates(tmp_path, [40.0], [40.0], [40.0], rlnImageName=["a.mrc"])
    assert open_it(path).kind == "star"
    assert open_it(path, tomograms=tmp_path / "tomograms").kind == "coordinates"


# ------------------------------------------------------------------------------------------------------- files and names


def test_folder_pattern_and_file(tmp_path: Path) -> None:
    for index in range(3):
        write_cube(tmp_path / f"p{index}.mrc", index, n=8 + 2 * index)
    (tmp_path / ".hidden.mrc").write_text("")
    (tmp_path / "note.txt").write_text("")
    for path, count in ((tmp_path, 3), (f"{tmp_path}/p[01].mrc", 2), (tmp_path / "p1.mrc", 1)):
        source = open_it(path)
        assert (source.kind, len(source)) == ("files", count)
        assert source.read(count - 1).shape == (8 + 2 * {3: 2, 2: 1, 1: 1}[count],) * 3
    write_star(tmp_path / "again.star", source.blocks_with(source.table))
    assert np.array_equal(open_it(tmp_path / "again.star").read(0).data, source.read(0).data)


@pytest.mark.parametrize("name", ["nothing.star", "nothing", "no*.mrc", "empty", "text.txt", "empty.zarr"])
def test_nothing_to_open(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(InputError):
        open_it(tmp_path / name)


def test_names_are_unique_and_stay_in_their_folder() -> None:
    names = unique_names(["../../etc/passwd", "a b", ".hidden", "é", "x" * 400], ["t"] * 5)
    assert names[:3] == ["etc_passwd", "a_b", "hidden"]
    assert all(name and "/" not in name and not name.startswith(".") and len(name) < 200 for name in names)
    assert unique_names(["1", "1"], ["a", "b"]) == ["a_1", "b_1"]
    assert unique_names(["A", "a"], ["t", "t"]) == ["t_A_row0000001", "t_a_row0000002"]
    for stems in (["a", "a", "t_a_row0000001"], ["x"] * 50, ["t_x", "x", "x"]):
        assert len({name.casefold() for name in unique_names(stems, ["t"] * len(stems))}) == len(stems)


def test_dataset_store(tmp_path: Path) -> None:
    store = create_store(tmp_path / "a.zarr", Rows(4, 2), Rows(0, 0), 10.0, 16, ("x", "none"), {})
    fill_with_zeros(store)
    data = np.random.default_rng(0).normal(size=(4, 16, 16, 16)).astype("f2")
    store.write("subtomogram", 0, data)
    source = open_it(tmp_path / "a.zarr")
    assert (source.kind, len(source), source.contrast) == ("store", 4, "bright")
    assert np.array_equal(source.read(3).data, data[3].astype("f4"))
    assert source.names[0] == "particle_000000"


def check_take(source: ParticleSource) -> None:
    """Some particles, the last first, are what they are among all."""
    rows = np.array([len(source) - 1, 0])
    some = source.take(rows)
    assert some.names == [source.names[row] for row in rows]
    pd.testing.assert_frame_equal(some.table, source.table.iloc[rows].reset_index(drop=True))
    for place, row in enumerate(rows):
        ours, its = some.read(place), source.read(int(row))
        np.testing.assert_array_equal(ours.data, its.data)
        assert (ours.voxel_size, ours.origin) == (its.voxel_size, its.origin)
        assert (some.transfers is None) == (source.transfers is None)
        if some.transfers is not None and source.transfers is not None:
            np.testing.assert_array_equal(some.transfers.of(place, 8, 10.0), source.transfers.of(int(row), 8, 10.0))
    for kind in ("offsets", "origins", "tilt_ranges"):
        values, every = getattr(some, kind), getattr(source, kind)
        assert (values is None) == (every is None)
        assert values is None or np.array_equal(values, every[rows])


def test_some_of_the_particles(tmp_path: Path) -> None:
    for index in range(3):
        write_cube(tmp_path / f"ctf{index}.mrc", index)
        write_cube(tmp_path / f"image{index}.mrc", index)
    names = {label: [f"{kind}{index}.mrc" for index in range(3)] for label, kind in (("rlnImageName", "image"), ("rlnCtfImage", "ctf"))}
    check_take(open_it(write_particles(tmp_path / "a.star", {"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0}, rlnOpticsGroup=[1] * 3, **names)))
    check_take(open_it(tmp_path / "image*.mrc"))

    for name, voxel_size in (("TS_1.mrc", 10.0), ("TS_2.mrc", 20.0)):
        make_tomogram(tmp_path / "project", name, voxel_size)
    origins = {f"rlnOrigin{axis}Angst": [1.0, 2.0, 3.0] for axis in "XYZ"}
    path = write_coordinates(tmp_path / "project", [50, 61, 40], [40, 48, 20], [30, 39, 21], ["TS_1", "TS_2", "TS_1"], **origins)
    check_take(open_it(path))

    store = create_store(tmp_path / "a.zarr", Rows(3, 2), Rows(0, 0), 10.0, 16, ("x", "none"), {"config": {"acquisition": {}}})
    fill_with_zeros(store)
    store.write("subtomogram", 0, np.random.default_rng(0).normal(size=(3, 16, 16, 16)).astype("f2"))
    for column, values in (("tilt_min", [-60, -50, -40]), ("tilt_max", [60, 50, 40]), ("defocus_um", [2, 3, 4])):
        store.write(column, 0, np.array(values, np.float32))
    source = open_it(tmp_path / "a.zarr")
    assert source.transfers is not None
    check_take(source)
    store.write("ctf_correction", 0, np.array([0, 1, 2], np.int8))
    with pytest.raises(InputError, match=r"2 of the 3 subtomograms of .* are said not to be phase flipped"):
        open_it(tmp_path / "a.zarr", deconvolve="phase_flipped")
    store.write("ctf_correction", 0, np.ones(3, np.int8))
    assert open_it(tmp_path / "a.zarr", deconvolve="phase_flipped").ctf is not None


def test_tomograms_are_found_from_another_folder(tmp_path: Path) -> None:
    make_tomogram(tmp_path / "project")
    source = open_it(write_coordinates(tmp_path / "project", [50.0, 60.0], [40.0, 40.0], [30.0, 30.0]))
    out = tmp_path / "elsewhere" / "predictions"
    out.mkdir(parents=True)
    write_star(out / "particles.star", source.blocks_with(source.table_for(out)))
    again = open_it(out / "particles.star")
    for row in range(len(source)):
        np.testing.assert_array_equal(again.read(row).data, source.read(row).data)


# ---------------------------------------------------------------------------------------------------------- real data


def test_real_particles(shared_data: Path) -> None:
    source = open_it(shared_data / "ribosome_70s_real" / "particles.star")
    assert (len(source), voxel_sizes(source, source.read(0)), source.read(19).shape) == (20, [12.0], (32, 32, 32))
    assert source.names[0] == "Unt_050_10"


@pytest.mark.parametrize("name", ["particles", "optimisation_set"])
def test_real_tilt_stacks(shared_data: Path, name: str) -> None:
    """Reconstructed when they are read; another program's reconstructions of the same particles are dark, the stacks are bright."""
    path = shared_data / "ribosome_70s_tilt_stacks" / f"{name}.star"
    stacks, volumes = open_it(path), open_it(shared_data / "ribosome_70s_real" / "particles.star")
    assert (len(stacks), voxel_sizes(stacks, stacks.read(0))) == (20, [12.0])
    assert stacks.description == "Warp (RELION 5 columns) STAR file of 20 stacks of tilt images"
    check_take(stacks)
    found = {row: stacks.read(row) for row in (0, 9, 10, 19)}
    assert found[0].shape == (32, 32, 32)
    own = [-correlate(found[row].data, volumes.read(row).data) for row in found]
    others = [-correlate(found[row].data, volumes.read((row + 3) % 20).data) for row in found]
    assert min(own) > 0.25
    assert max(np.abs(others)) < 0.15
    # WarpTools counts in pixels of the export: only so do the particles fill the tomograms of 7335 x 10002 x 2334 Å
    positions = particles_from_relion(path).positions
    assert positions is not None
    assert (positions.max(axis=0) > [6000, 9000, 2000]).all()
    assert (positions.max(axis=0) < [7335, 10002, 2334]).all()


def correlate(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_real_angles(shared_data: Path) -> None:
    """The matrices with which an average fits these particles (checked by its correlation) are those of our rule."""
    with np.load(shared_data / "ribosome_70s_real" / "truth.npz") as truth:
        expected = truth["pose_matrix"]
    rotations = particles_from_relion(shared_data / "ribosome_70s_tilt_stacks" / "particles.star").rotations
    assert rotations is not None
    np.testing.assert_allclose(rotations, expected, atol=1e-6)


def test_real_tomograms(shared_data: Path) -> None:
    with pytest.raises(InputError, match="141 x 91 x 281 voxels"):
        open_it(shared_data / "tomograms_real" / "emd_1155.map.gz")
    with pytest.raises(InputError, match="0 x 0 x 0 Å"):
        open_it(shared_data / "tomograms_labelled" / "tomo01.mrc.gz")


def test_a_table_beside_many_tomograms_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c"]
    for name in names:
        make_tomogram(tmp_path / "tomograms", f"{name}.mrc")
    table = pd.DataFrame({"rlnTomoName": names, "rlnTomoReconstructedTomogram": [f"tomograms/{name}.mrc" for name in names]})
    tilts = {name: pd.DataFrame({"rlnTomoYTilt": [-50.0 - row, 60.0]}) for row, name in enumerate(names)}
    write_star(tmp_path / "tomograms.star", {"global": table, **tilts})
    path = write_coordinates(tmp_path / "list", [40.0] * 3, [40.0] * 3, [40.0] * 3, ["c", "a", "b"])
    reads: list[Path] = []
    monkeypatch.setattr("triptych.io.stated.read_star", lambda file: reads.append(file) or read_star(file))
    assert np.array_equal(open_it(path, tomograms=tmp_path / "tomograms").tilt_ranges, [[-52, 60], [-50, 60], [-51, 60]])
    assert len(reads) == 1


def test_tilt_ranges_come_from_the_tables_of_the_tomograms(tmp_path: Path) -> None:
    particles = pd.DataFrame({"rlnTomoName": ["a", "b", "a"], **{f"rlnCoordinate{axis}": [5.0, 6.0, 7.0] for axis in "XYZ"}})
    write_star(tmp_path / "particles.star", {"particles": particles})
    assert read_relion(tmp_path / "particles.star").tilt_ranges() is None
    tilts = {name: pd.DataFrame({"rlnTomoYTilt": values}) for name, values in (("a", [-48.0, 0.0, 51.0]), ("b", [-60.0, 57.0]))}
    names = pd.DataFrame({"rlnTomoName": ["a", "b"]})
    write_star(tmp_path / "tomograms.star", {"global": names, **tilts})
    expected = [[-48, 51], [-60, 57], [-48, 51]]
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), expected)
    for name, table in tilts.items():  # RELION 5
        write_star(tmp_path / "tilt_series" / f"{name}.star", {name: table.rename(columns={"rlnTomoYTilt": "rlnTomoNominalStageTiltAngle"})})
    series = names.assign(rlnTomoTiltSeriesStarFile=["tilt_series/a.star", "tilt_series/b.star"])
    write_star(tmp_path / "tomograms.star", {"global": series})
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), expected)
    write_star(tmp_path / "tomograms.star", {"global": names})
    assert read_relion(tmp_path / "particles.star").tilt_ranges() is None
    every = pd.concat([table.assign(rlnTomoName=name) for name, table in tilts.items()])
    write_star(tmp_path / "tilts.star", {"tilts": every})  # as triptych writes them
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), expected)
    write_star(tmp_path / "tilts.star", {"tilts": pd.concat([every, every[:1].assign(rlnTomoYTilt=np.nan)])})  # of an image that was not aligned
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), expected)
    write_star(tmp_path / "tilts.star", {"tilts": every.assign(rlnTomoYTilt=np.nan)})
    assert read_relion(tmp_path / "particles.star").tilt_ranges() is None


@pytest.mark.parametrize(
    ("label", "good", "bad"),
    [("rlnTomoNominalStageTiltAngle", "3.0", "3,0"), ("rlnTomoProjZ", "[0.1,0,1,0]", "[0.1,0,one,0]"), ("rlnTomoProjZ", "[0.1,0,1,0]", "none")],
)
def test_text_among_the_tilts_is_found_in_the_file_that_holds_it(label: str, good: str, bad: str, tmp_path: Path) -> None:
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({"rlnTomoName": ["a"], **{f"rlnCoordinate{axis}": [5.0] for axis in "XYZ"}})})
    tomograms, tilts = pd.DataFrame({"rlnTomoName": ["a"]}), pd.DataFrame({label: [good, bad, good]})
    write_star(tmp_path / "tilt_series" / "a.star", {"a": tilts})
    write_star(tmp_path / "tomograms.star", {"global": tomograms.assign(rlnTomoTiltSeriesStarFile="tilt_series/a.star")})
    with pytest.raises(InputError, match=rf'{label} of .*/a\.star is "{re.escape(bad)}" in row 2, but'):
        read_relion(tmp_path / "particles.star").tilt_ranges()
    others = pd.DataFrame({label: [good] * 4, "rlnTomoName": "b"})
    write_star(tmp_path / "tomograms.star", {"global": tomograms})
    write_star(tmp_path / "tilts.star", {"tilts": pd.concat([others, tilts.assign(rlnTomoName="a")])})
    with pytest.raises(InputError, match=rf'{label} of .*/tilts\.star is "{re.escape(bad)}" in row 6, but'):
        read_relion(tmp_path / "particles.star").tilt_ranges()


def test_defocus_is_that_of_the_particle_or_of_its_tilts(tmp_path: Path) -> None:
    particles = pd.DataFrame({"rlnTomoName": ["a", "b", "a"], **{f"rlnCoordinate{axis}": [5.0, 6.0, 7.0] for axis in "XYZ"}})
    star, tomograms = tmp_path / "particles.star", tmp_path / "tomograms.star"
    write_star(star, {"particles": particles})
    assert stated_ctf(read_relion(star)) is None
    names = pd.DataFrame({"rlnTomoName": ["a", "b"], "rlnVoltage": [200.0, 200.0]})
    tilts = {"a": pd.DataFrame({"rlnDefocusU": [3e4, 4e4], "rlnDefocusV": [2e4, 3e4]}), "b": pd.DataFrame({"rlnDefocusU": [5e4]})}
    write_star(tomograms, {"global": names, **tilts})
    ctf = stated_ctf(read_relion(star))
    assert ctf is not None
    assert np.allclose(ctf.defocus, [3e4, 5e4, 3e4])
    assert (ctf.voltage_kv, ctf.spherical_aberration_mm, set(ctf.correction)) == (200, 2.7, {"none"})
    for name, table in tilts.items():  # RELION 5
        write_star(tmp_path / "tilt_series" / f"{name}.star", {name: table})
    write_star(tomograms, {"global": names.assign(rlnTomoTiltSeriesStarFile=["tilt_series/a.star", "tilt_series/b.star"])})
    assert np.allclose(stated_ctf(read_relion(star)).defocus, ctf.defocus)
    write_star(star, {"particles": particles.assign(rlnDefocusU=[1e4, 2e4, 3e4])})
    assert np.allclose(stated_ctf(read_relion(star)).defocus, [1e4, 2e4, 3e4])
    write_star(star, {"particles": particles.assign(rlnDefocusU=0.0)})  # never set
    assert np.allclose(stated_ctf(read_relion(star)).defocus, ctf.defocus)
    write_star(star, {"particles": particles})
    write_star(tomograms, {"global": names, **tilts, "b": pd.DataFrame({"rlnDefocusU": [5e4, 0.0], "rlnDefocusV": [5e4, "None"]})})
    assert np.allclose(stated_ctf(read_relion(star)).defocus, ctf.defocus)
    write_star(tomograms, {"global": names.assign(rlnVoltage=[200.0, 300.0]), **tilts})
    with pytest.raises(InputError, match="predict them apart"):
        stated_ctf(read_relion(star))
    assert stated_ctf(read_relion(star), voltage_kv=200) is not None


@pytest.mark.parametrize("of_tilts", [False, True])
def test_the_defoci_of_an_image_are_in_one_unit_or_one_is_absent(of_tilts: bool, tmp_path: Path) -> None:
    def read(u: list[Any], v: list[Any]) -> list[float]:
        defoci = {"rlnDefocusU": u, "rlnDefocusV": v}
        particles = pd.DataFrame({"rlnTomoName": ["a"] * 2, **{f"rlnCoordinate{axis}": [5.0, 6.0] for axis in "XYZ"}, **({} if of_tilts else defoci)})
        write_star(tmp_path / "particles.star", {"particles": particles})
        tilts = pd.DataFrame(defoci if of_tilts else {"rlnTomoYTilt": [-3.0, 3.0]})
        write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"]}), "a": tilts})
        ctf = stated_ctf(read_relion(tmp_path / "particles.star"))
        assert ctf is not None
        return [float(np.mean(ctf.defocus))]

    assert read([2e4, 3e4], [2.2e4, 3.2e4]) == [2.6e4]
    for absent in ([0.0, 0.0], [np.nan, np.nan]):
        assert read([2e4, 3e4], absent) == [2.5e4]
    for absent in (0.0, np.nan):  # of one of them only
        assert read([2e4, 3e4], [2e4, absent]) == [2.5e4]
    for u, v in (([2e4, 25000.0], [2e4, 2.5]), ([2e4, 2.5], [2e4, 25000.0])):
        with pytest.raises(InputError, match=rf"of .*\.star, (row|particle) 2, are {u[1]:g} and {v[1]:g}, but both were expected in Å"):
            read(u, v)


def test_defocus_of_picks_is_what_the_table_beside_the_tomograms_states(tmp_path: Path) -> None:
    for name in ("TS_1", "TS_2"):
        make_tomogram(tmp_path / "project" / "tomograms", f"{name}.mrc")
    (tmp_path / "picks").mkdir()
    picks = write_coordinates(tmp_path / "picks", [50.0, 60.0, 70.0], [40.0] * 3, [30.0] * 3, ["TS_1", "TS_2", "TS_1"])
    how = {"tomograms": tmp_path / "project" / "tomograms", "deconvolve": "untreated"}
    with pytest.raises(InputError, match="does not tell it"):
        open_it(picks, **how)
    tomograms = pd.DataFrame({"rlnTomoName": ["TS_1", "TS_2"], "rlnVoltage": [200.0, 200.0], "rlnTomoTiltSeriesPixelSize": [2.5, 2.5]})
    tilts = {"TS_1": pd.DataFrame({"rlnDefocusU": [3e4, 4e4], "rlnPhaseShift": [0.0, 0.0]}), "TS_2": pd.DataFrame({"rlnDefocusU": [5e4, 5e4]})}
    table = tmp_path / "project" / "tomograms.star"
    write_star(table, {"global": tomograms, **tilts})
    source = open_it(picks, **how)
    assert source.ctf is not None
    assert source.transfers is source.ctf
    assert source.ctf.defocus.tolist() == [3.5e4, 5e4, 3.5e4]
    assert (source.ctf.voltage_kv, source.ctf.spherical_aberration_mm, set(source.ctf.correction)) == (200, 2.7, {"none"})
    assert open_it(picks, tomograms=how["tomograms"]).transfers is None
    elsewhere = tomograms.assign(rlnTomoReconstructedTomogram=["gone/TS_1.mrc", "gone/TS_2.mrc"])  # they were copied here
    write_star(table, {"global": elsewhere, **tilts})
    assert open_it(picks, **how).ctf is not None
    write_star(table, {"global": tomograms, **tilts, "TS_1": tilts["TS_1"].assign(rlnPhaseShift=90.0)})
    with pytest.raises(InputError, match="phase plate"):
        open_it(picks, **how)
    write_star(table, {"global": tomograms.assign(rlnVoltage=[200.0, "None"]), **tilts})  # the other one may have any
    with pytest.raises(InputError, match="several values of rlnVoltage"):
        open_it(picks, **how)
    write_star(table, {"global": tomograms, **tilts, "TS_2": pd.DataFrame({"rlnDefocusU": [3.0]})})  # µm
    with pytest.raises(InputError, match=r"rlnDefocusU of the table beside the tomograms of .*p.star is 3 "):
        open_it(picks, **how)


def test_picks_from_simulated_tomograms_have_the_ctf_that_was_simulated(tmp_path: Path) -> None:
    """As `simulate-tomograms` states it: nobody has to tell how they were reconstructed, and who tells it wrongly is told."""
    make_tomogram(tmp_path / "simulated" / "tomograms")
    picks = write_coordinates(tmp_path, [50.0, 60.0], [40.0] * 2, [30.0] * 2)
    tomograms = pd.DataFrame({"rlnTomoName": ["TS_1"], "triptychCtfCorrection": [2.0], "triptychDeconvolutionConstant": [0.05]})
    write_star(tmp_path / "simulated" / "tomograms.star", {"global": tomograms, "TS_1": pd.DataFrame({"rlnDefocusU": [3e4, 4e4]})})
    transfers = open_it(picks, tomograms=tmp_path / "simulated" / "tomograms").transfers
    assert isinstance(transfers, CtfTransfers)
    assert (list(transfers.correction), transfers.constant.tolist(), transfers.defocus.tolist()) == (["deconvolve"] * 2, [0.05] * 2, [3.5e4] * 2)
    with pytest.raises(InputError, match=r"2 of the 2 subtomograms of .*p.star are said not to be multiplied"):
        open_it(picks, tomograms=tmp_path / "simulated" / "tomograms", deconvolve="multiplied")


def test_picks_from_tomograms_simulated_at_any_focus_are_read(tmp_path: Path) -> None:
    """Settings that no real file may state are right here; several voltages have no CTF in common, which only matters to who undoes it."""
    for name in ("TS_1", "TS_2"):
        make_tomogram(tmp_path / "simulated" / "tomograms", f"{name}.mrc")
    how = {"tomograms": tmp_path / "simulated" / "tomograms"}
    picks = write_coordinates(tmp_path, [50.0, 60.0], [40.0] * 2, [30.0] * 2, ["TS_1", "TS_2"])
    tilts = {"TS_1": pd.DataFrame({"rlnDefocusU": [30.0], "rlnDefocusV": [-30.0]}), "TS_2": pd.DataFrame({"rlnDefocusU": [-5e3]})}
    tomograms = pd.DataFrame({"rlnTomoName": ["TS_1", "TS_2"], "triptychCtfCorrection": [0.0, 0.0]})
    table = tmp_path / "simulated" / "tomograms.star"
    write_star(table, {"global": tomograms.assign(rlnVoltage=200.0), **tilts})
    transfers = open_it(picks, **how).transfers
    assert isinstance(transfers, CtfTransfers)
    assert (transfers.defocus.tolist(), transfers.voltage_kv) == ([0.0, -5e3], 200)
    write_star(table, {"global": tomograms.assign(rlnVoltage=[200.0, 300.0]), **tilts})
    assert open_it(picks, **how).transfers is None


@pytest.mark.parametrize("of_tilts", [False, True])
def test_a_phase_plate_is_not_deconvolved_as_if_there_were_none(of_tilts: bool, tmp_path: Path) -> None:
    star = tmp_path / "particles.star"
    write_star(star, {"particles": pd.DataFrame({"rlnTomoName": ["a"], "rlnDefocusU": [3e4], **({} if of_tilts else {"rlnPhaseShift": [90.0]})})})
    tilts = pd.DataFrame({"rlnTomoYTilt": [-3.0, 3.0], "rlnPhaseShift": [0.0, 80.0 if of_tilts else 0.0]})
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"]}), "a": tilts})
    with pytest.raises(InputError, match=r"phase plate \(rlnPhaseShift\)"):
        stated_ctf(read_relion(star))


def test_given_defocus_leaves_the_stated_optics(tmp_path: Path) -> None:
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": [200.0], "rlnSphericalAberration": [1.4], "rlnAmplitudeContrast": [0.1]})
    particles = pd.DataFrame({**{f"rlnCoordinate{axis}": [5.0, 6.0] for axis in "XYZ"}, "rlnOpticsGroup": [1, 1]})
    for told in (particles, particles.assign(rlnDefocusU=[3e4, np.nan])):
        write_star(tmp_path / "particles.star", {"optics": optics, "particles": told})
        ctf = stated_ctf(read_relion(tmp_path / "particles.star"), defocus_um=3.0)
        assert ctf is not None
        assert (ctf.defocus.tolist(), ctf.voltage_kv, ctf.spherical_aberration_mm, ctf.amplitude_contrast) == ([3e4, 3e4], 200, 1.4, 0.1)


@pytest.mark.parametrize(
    ("label", "value", "given"),
    [
        ("rlnDefocusU", 3.0, {"defocus_um": 3.0}),  # µm
        ("rlnDefocusU", -3e4, {"defocus_um": 3.0}),  # overfocus, or another sign convention
        ("rlnVoltage", 3e5, {"voltage_kv": 300.0}),  # V
        ("rlnVoltage", 0.0, {"voltage_kv": 300.0}),
        ("rlnAmplitudeContrast", 7.0, None),  # per cent
    ],
)
def test_optics_that_no_microscope_has_are_refused(tmp_path: Path, label: str, value: float, given: dict[str, float] | None) -> None:
    optics = {"rlnDefocusU": 3e4, "rlnVoltage": 300.0, "rlnAmplitudeContrast": 0.07} | {label: value}
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({**{f"rlnCoordinate{axis}": [5.0] for axis in "XYZ"}, **optics})})
    with pytest.raises(InputError, match=f"{label} of .* is {value:g} .particle 1., but .* was expected"):
        stated_ctf(read_relion(tmp_path / "particles.star"))
    assert given is None or stated_ctf(read_relion(tmp_path / "particles.star"), **given) is not None


def project(tilts: NDArray[np.float64], axis: str = "Y", depth: int = 1) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) of projection matrices: Rz Ry(tilt) in RELION (Tomogram::setProjectionMatrix), perhaps mirrored in depth (ImodImport)."""
    turned = (Rotation.from_euler("Z", 85, degrees=True) * Rotation.from_euler(axis, tilts[:, None], degrees=True)).as_matrix()
    return np.asarray(turned * [1, 1, depth])


def write_projections(path: Path, matrices: NDArray[np.float64]) -> None:
    """A table of one tomogram as RELION 4 has it."""
    columns = {f"rlnTomoProj{axis}": [f"[{','.join(f'{value:.6f}' for value in row)},9]" for row in matrices[:, i]] for i, axis in enumerate("XYZ")}
    table = pd.DataFrame({**columns, "rlnTomoProjW": "[0,0,0,1]"})
    write_star(path, {"global": pd.DataFrame({"rlnTomoName": ["a"], "rlnTomoSizeX": 100}), "a": table})


def test_tilt_ranges_follow_from_projection_matrices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sense of the tilts is that of the wedge: what is reconstructed with these matrices has it there."""
    particles = pd.DataFrame({"rlnTomoName": ["a"], **{name: [5.0] for name in COORDINATES}})
    write_star(tmp_path / "particles.star", {"particles": particles})
    tilts = np.arange(-66.0, 40.0, 3)
    write_projections(tmp_path / "tomograms.star", project(tilts))
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), [[-66, 39]], atol=1e-3)
    write_projections(tmp_path / "tomograms.star", project(tilts, depth=-1))
    assert np.allclose(read_relion(tmp_path / "particles.star").tilt_ranges(), [[-39, 66]], atol=1e-3)
    images = np.random.default_rng(0).normal(size=(len(tilts), 48, 48))
    for depth, expected in ((1, (-66, 39)), (-1, (-39, 66))):
        nothing = np.zeros(len(tilts))
        wedge = find_missing_wedge(Volume(reconstruct(images, TiltOptics(project(tilts, depth=depth), *[nothing] * 3, 300, 0, 1, False), 10.0), 10.0))
        assert wedge is not None
        assert (wedge.tilt_min, wedge.tilt_max) == pytest.approx(expected, abs=9)
    assert not caplog.records


@pytest.mark.parametrize("tilts", ["about x", "beam along y"])
def test_tilts_about_another_axis_are_told_of(tilts: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beams are along y where RELION 4 imported IMOD's volumes as they are reconstructed (without --flipYZ)."""
    angles = np.arange(-60.0, 61.0, 3)
    write_projections(tmp_path / "tomograms.star", project(angles, "X") if tilts == "about x" else project(angles)[..., [0, 2, 1]])
    particles = pd.DataFrame({"rlnTomoName": ["a"], **{name: [5.0] for name in COORDINATES}})
    write_star(tmp_path / "particles.star", {"particles": particles})
    with caplog.at_level(logging.WARNING):
        assert read_relion(tmp_path / "particles.star").tilt_ranges() is None
    assert "are not of tilts about y with the beam along z" in caplog.text


def test_tables_that_were_read_are_among_the_files_of_a_source(tmp_path: Path) -> None:
    """So that a manifest tells when they have changed: those beside tomograms, of tilts, and one that was given."""
    project = tmp_path / "project"
    for name in ("TS_1", "TS_2", "TS_3"):
        make_tomogram(project / "tomograms", f"{name}.mrc")
        write_star(project / "tilt_series" / f"{name}.star", {name: pd.DataFrame({"rlnTomoYTilt": [-50.0, 60.0]})})
    names = pd.DataFrame({"rlnTomoName": ["TS_1", "TS_2", "TS_3"]})
    series, files = ([f"{folder}/{name}{end}" for name in names["rlnTomoName"]] for folder, end in (("tilt_series", ".star"), ("tomograms", ".mrc")))
    write_star(project / "tomograms.star", {"global": names.assign(rlnTomoTiltSeriesStarFile=series, rlnTomoReconstructedTomogram=files)})
    (tmp_path / "picks").mkdir()
    picks = write_coordinates(tmp_path / "picks", [50.0, 60.0], [40.0] * 2, [30.0] * 2, ["TS_1", "TS_2"])
    tables = [project / "tomograms.star", *(project / "tilt_series" / f"{name}.star" for name in ("TS_1", "TS_2"))]
    tomograms = [project / "tomograms" / f"{name}.mrc" for name in ("TS_1", "TS_2")]

    def names_files(given: Path, expected: list[Path], **settings: Any) -> bool:
        files = open_it(given, **settings).files
        return files[0] == given and sorted(map(Path.resolve, files[1:])) == sorted(map(Path.resolve, expected))

    assert names_files(picks, [*tables, *tomograms], tomograms=project / "tomograms")
    assert names_files(picks, [*tables, *tomograms], tomograms=project / "tomograms.star")
    beside = write_coordinates(project, [50.0, 60.0], [40.0] * 2, [30.0] * 2, ["TS_1", "TS_2"])
    assert names_files(beside, [*tables, *tomograms])


def test_a_single_tilt_is_no_range(tmp_path: Path) -> None:
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({"rlnTomoName": ["a"], **{name: [5.0] for name in COORDINATES}})})
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"]}), "a": pd.DataFrame({"rlnTomoYTilt": [3.0]})})
    assert read_relion(tmp_path / "particles.star").tilt_ranges() is None


def write_tilt_stacks(folder: Path, voltage: float = 300.0, **tilts: list[float]) -> Path:
    """A particle's stack of three tilt images, as its tables tell of it."""
    beams = {"rlnTomoProjX": ["[1,0,0,0]"] * 3, "rlnTomoProjY": ["[0,1,0,0]"] * 3, "rlnTomoProjZ": ["[-0.1,0,1,0]", "[0,0,1,0]", "[0.1,0,1,0]"]}
    defocus = {"rlnDefocusU": [3e4, 3e4, 3e4], "rlnDefocusV": [3e4, 3e4, 3e4], "rlnDefocusAngle": [0.0] * 3}
    write_star(folder / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"]}), "a": pd.DataFrame({**beams, **defocus, **tilts})})
    optics = {"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0, "rlnVoltage": voltage, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    columns = {"rlnImageName": ["x.mrcs"], "rlnTomoName": ["a"], "rlnOpticsGroup": [1]}
    return write_particles(folder / "particles.star", optics=optics, general={"rlnTomoSubTomosAre2DStacks": 1}, **columns)


@pytest.mark.parametrize(
    ("tilts", "message"),
    [
        ({"rlnDefocusU": [3.0] * 3, "rlnDefocusV": [3.0] * 3}, r"rlnDefocusU of the tilts of a in .* is 3, .*Å, .*: correct the file$"),
        ({"rlnDefocusV": [3e4, 3.0, 3e4]}, "row 2, are 30000 and 3, but both were expected in Å: correct the file$"),
    ],
)
def test_the_defocus_of_tilt_stacks_is_in_angstrom(tmp_path: Path, tilts: dict[str, list[float]], message: str) -> None:
    assert len(open_tilt_stacks(read_relion(write_tilt_stacks(tmp_path / "right")), ["x.mrcs"]).optics) == 1
    with pytest.raises(InputError, match=message):
        open_tilt_stacks(read_relion(write_tilt_stacks(tmp_path / "wrong", **tilts)), ["x.mrcs"])


def test_the_voltage_of_tilt_stacks_is_in_kilovolts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rlnVoltage of .* is 300000 .particle 1., .*: correct the file$"):
        open_tilt_stacks(read_relion(write_tilt_stacks(tmp_path, voltage=3e5)), ["x.mrcs"])


def test_of_a_tilt_stack_the_tilts_count_that_show_the_particle(shared_data: Path) -> None:
    file = read_relion(shared_data / "ribosome_70s_tilt_stacks" / "particles.star")
    every = open_it(file.path).tilt_ranges
    assert every is not None
    assert np.allclose(every[[0, 19]], [[-60.5, 54.2], [-70.7, 44.4]], atol=0.1)  # atan(-x / z) of the beams in the tables
    seen = [f"[{','.join(['0'] * 10 + ['1'] * 17 + ['0'] * 10)}]", *file.table["rlnTomoVisibleFrames"][1:]]
    fewer = replace(file, blocks={**file.blocks, file.block: file.table.assign(rlnTomoVisibleFrames=seen)})
    paths = [str(file.path.parent / name) for name in file.table["rlnImageName"]]
    ranges = open_tilt_stacks(fewer, paths).tilt_ranges
    assert ranges is not None
    assert np.allclose(ranges[0], [-28.5, 18.4], atol=0.1)
    assert np.array_equal(ranges[1:], every[1:])
