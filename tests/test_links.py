"""Files that STAR files name are found from wherever `convert` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triptych.io.convert import convert_particles
from triptych.io.links import find_file, search_folders
from triptych.io.mrc import write_mrc
from triptych.io.particle_lists import Known, read_particles
from triptych.io.star import read_star, write_star
from triptych.volume import Volume

CENTERED = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
WAY = "rlnTomoReconstructedTomogram"


def write_picks(folder: Path, name: str = "rec_TS_1", size: float = 10.0) -> Path:
    """Picks with a table of tomograms of their own, which counts in voxels of the tomogram, and that tomogram."""
    write_mrc(folder / "tomograms" / "rec_TS_1.mrc", Volume(np.zeros((20, 30, 40), np.float32), 10.0))
    table = {"rlnTomoName": [name] * 2, **{label: [10.0, -20.0] for label in CENTERED}}
    box = {"rlnTomoSizeX": [400 / size], "rlnTomoSizeY": [300 / size], "rlnTomoSizeZ": [200 / size]}
    about = {"rlnTomoName": [name], WAY: ["../tomograms/rec_TS_1.mrc"], "rlnTomoTiltSeriesPixelSize": [size], "rlnTomoTomogramBinning": [10 / size]}
    write_star(folder / "picks" / "tomograms.star", {"global": pd.DataFrame(about | box)})
    write_star(folder / "picks" / "particles.star", {"particles": pd.DataFrame(table)})
    return folder / "picks" / "particles.star"


def write_project(folder: Path) -> Path:
    """A RELION project whose names start at its own folder."""
    series = folder / "Align" / "job1" / "tilt_series" / "TS_1.star"
    series.parent.mkdir(parents=True)
    write_star(series, {"TS_1": pd.DataFrame({"rlnTomoYTilt": [-60.0, 60.0]})})
    ways = ["Align/job1/tilt_series/TS_1.star", "gone.star"]
    table = {"rlnTomoName": ["TS_1", "TS_2"], "rlnTomoTiltSeriesStarFile": ways, "rlnTomoHand": [-1.0] * 2}
    box = {"rlnTomoTiltSeriesPixelSize": [2.0] * 2, "rlnTomoSizeX": [2000] * 2, "rlnTomoSizeY": [1500] * 2, "rlnTomoSizeZ": [1000] * 2}
    write_star(folder / "Align" / "job1" / "tomograms.star", {"global": pd.DataFrame(table | box)})
    return folder / "Align" / "job1" / "tomograms.star"


def find_from(star: Path, name: str) -> Path:
    found = find_file(name, search_folders(star))
    assert found is not None, name
    return found.resolve()


def test_tomograms_are_found_from_another_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picks = write_picks(tmp_path / "lab")
    write_mrc(tmp_path / "tomograms" / "rec_TS_1.mrc", Volume(np.ones((20, 30, 40), np.float32), 10.0))  # where the old name would lead
    convert_particles(picks, tmp_path / "out" / "five", "relion5")
    star = tmp_path / "out" / "five" / "tomograms.star"
    assert find_from(star, read_star(star)["global"][WAY][0]) == (tmp_path / "lab" / "tomograms" / "rec_TS_1.mrc").resolve()
    assert "names files by their way from its own folder now" in caplog.text


def test_the_projects_own_table_is_kept_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also its other columns, names and tomograms; in the project, paths stay as RELION takes them, from the project's folder."""
    picks, project = write_picks(tmp_path / "lab"), write_project(tmp_path / "project")
    out = tmp_path / "project" / "Picks" / "five"
    before = convert_particles(picks, out, "relion5", Known(tomograms=project))
    pd.testing.assert_frame_equal(read_star(out / "tomograms.star")["global"], read_star(project)["global"], check_dtype=False)
    assert set(read_star(out / "particles.star")["particles"]["rlnTomoName"]) == {"TS_1"}
    assert not caplog.records
    np.testing.assert_allclose(read_particles(out).positions, before.positions, atol=1e-6)

    elsewhere = tmp_path / "elsewhere"
    convert_particles(picks, elsewhere, "relion5", Known(tomograms=project))
    way = read_star(elsewhere / "tomograms.star")["global"]["rlnTomoTiltSeriesStarFile"]
    assert find_from(elsewhere / "tomograms.star", way[0]) == (project.parent / "tilt_series" / "TS_1.star").resolve()
    assert way[1] == "gone.star"
    assert "write it somewhere in that folder" in caplog.text


@pytest.mark.parametrize("target", ["relion4", "warp", "csv"])
def test_images_are_found_from_another_folder(target: str, tmp_path: Path) -> None:
    image = tmp_path / "project" / "Extract" / "1.mrc"
    write_mrc(image, Volume(np.zeros((8, 8, 8), np.float32), 10.0))
    table = {"rlnTomoName": ["TS_1"], "rlnImageName": ["Extract/1.mrc"], **{f"rlnCoordinate{axis}": [5.0] for axis in "XYZ"}}
    source = tmp_path / "project" / "Refine" / "particles.star"
    source.parent.mkdir()
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [2.0], "rlnImagePixelSize": [10.0]})
    write_star(source, {"optics": optics, "particles": pd.DataFrame(table | {"rlnOpticsGroup": [1]})})
    inside, outside = (folder / f"out.{'csv' if target == 'csv' else 'star'}" for folder in (tmp_path / "project" / "Convert", tmp_path / "away"))
    for out in (inside, outside):
        out.parent.mkdir()
        convert_particles(source, out, target)
        name = str(read_particles(out).table["rlnImageName"][0])
        assert find_from(out, name) == image
        assert (name == "Extract/1.mrc") == (out == inside)


@pytest.mark.parametrize("size", [2.5, 10.0])
def test_binning_stays_with_particles_that_name_no_optics(size: float, tmp_path: Path) -> None:
    """It is what makes of the pixels that are counted in the voxels of the tomogram."""
    picks = write_picks(tmp_path, size=size)
    table = read_star(picks)["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(picks, {"particles": table.assign(**{WAY: "tomograms/rec_TS_1.mrc", "rlnTomoTomogramBinning": 10 / size})})
    convert_particles(picks, tmp_path / "five", "relion5")
    convert_particles(picks, tmp_path / "four.star", "relion4", Known(voxel_size=5.0))
    for star, expected in ((tmp_path / "five" / "particles.star", 10 / size), (tmp_path / "four.star", 2.0)):
        assert read_star(star)["particles"]["rlnTomoTomogramBinning"].tolist() == pytest.approx([expected] * 2)
