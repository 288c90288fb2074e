"""Files that STAR files name are found from wherever `convert` writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triptych.config import PredictConfig
from triptych.errors import InputError
from triptych.io.convert import convert_particles
from triptych.io.links import find_file, search_folders
from triptych.io.mrc import write_mrc
from triptych.io.particle_lists import Known, read_particles
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.io.stated import list_tomograms, read_tomogram_table
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


@pytest.mark.parametrize("size", [1e-9, 1e6])
def test_a_voxel_size_that_no_tomogram_has_is_refused(size: float, tmp_path: Path) -> None:
    write_picks(tmp_path, size=size)
    with pytest.raises(InputError, match=r"rlnTomoTiltSeriesPixelSize of rec_TS_1 in .*tomograms\.star is .* Å, but must be between"):
        list_tomograms([tmp_path / "picks" / "tomograms.star"])


def test_a_folder_without_tomograms_is_answered_with_the_table_in_it(tmp_path: Path) -> None:
    """A RELION job's, whose tomograms lie in a folder of their own."""
    picks = write_picks(tmp_path)
    folder = picks.parent
    table = re.escape(str(folder / "tomograms.star"))
    with pytest.raises(InputError, match=f"holds no tomogram, but a table of tomograms: give that, {table}$"):
        list_tomograms([folder])
    with pytest.raises(InputError, match=rf"is a folder, but a table of tomograms \(STAR\) was expected: give that in it, {table}$"):
        read_tomogram_table(folder)
    with pytest.raises(InputError, match=f"no tomogram called rec_TS_1 is in .*: give the table of tomograms there, {table}$"):
        open_particles(picks, PredictConfig(tomograms=folder), 80.0)
    with pytest.raises(InputError, match=f"no tomogram called rec_TS_1 is in .*: give the table of tomograms there, {table}$"):
        convert_particles(picks, tmp_path / "five", "relion5", Known(tomograms=folder))
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path):
        with pytest.raises(InputError, match=r"holds no tomogram, but MRC files or OME-Zarr groups were expected: give the folder that they are in$"):
            list_tomograms([folder])


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
    assert f"{star} names files by their way from its own folder now" in caplog.text
    assert "particles.star names files" not in caplog.text  # of these, only tomograms.star does

    caplog.clear()
    convert_particles(picks, tmp_path / "out" / "warp.star", "warp", Known(voxel_size=10.0))  # which has no table of tomograms
    assert "names files" not in caplog.text


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


def test_sizes_of_a_binned_tomogram_may_miss_those_of_its_tilt_series_by_the_rounding(tmp_path: Path) -> None:
    """Places from the corner count exactly; only what they are told from, the centre, is the table's."""
    picks = write_picks(tmp_path / "lab")
    table = read_star(picks)["particles"]
    assert isinstance(table, pd.DataFrame)
    corner = {f"rlnCoordinate{axis}": (table[label] + size * 5) / 10 for axis, label, size in zip("XYZ", CENTERED, (40, 30, 20), strict=True)}
    write_star(picks, {"particles": table.assign(**corner)})
    project = tmp_path / "project.star"
    box = {"rlnTomoTiltSeriesPixelSize": [2.5], "rlnTomoSizeX": [163], "rlnTomoSizeY": [120], "rlnTomoSizeZ": [79], "rlnTomoTomogramBinning": [4.0]}
    write_star(project, {"global": pd.DataFrame({"rlnTomoName": ["TS_1"], **box})})
    before = convert_particles(picks, tmp_path / "five", "relion5", Known(tomograms=project))
    np.testing.assert_allclose(before.positions, np.stack([corner[f"rlnCoordinate{axis}"] * 10 for axis in "XYZ"], axis=1))
    written = read_star(tmp_path / "five" / "particles.star")["particles"]
    expected = before.positions - np.array([163, 120, 79]) / 2 * 2.5
    np.testing.assert_allclose(written[CENTERED].to_numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(read_particles(tmp_path / "five").positions, before.positions, atol=1e-6)
    write_star(project, {"global": pd.DataFrame({"rlnTomoName": ["TS_1"], **box, "rlnTomoSizeX": [180]})})
    with pytest.raises(InputError, match="is elsewhere"):
        convert_particles(picks, tmp_path / "other", "relion5", Known(tomograms=project))


def test_what_is_for_relion_starts_at_the_folder_of_its_project(tmp_path: Path) -> None:
    """It opens the files of an optimisation set from there, and takes the optics from the tomograms where the particles' file has none."""
    picks, project = write_picks(tmp_path / "lab"), write_project(tmp_path / "project")
    convert_particles(picks, tmp_path / "project" / "Picks" / "five", "relion5", Known(tomograms=project))
    pairs = read_star(tmp_path / "project" / "Picks" / "five" / "optimisation_set.star")[""]
    assert pairs["rlnTomoParticlesFile"] == "Picks/five/particles.star"
    assert pairs["rlnTomoTomogramsFile"] == "Picks/five/tomograms.star"
    written = read_star(tmp_path / "project" / "Picks" / "five" / "particles.star")
    assert "optics" not in written
    assert "rlnOpticsGroup" not in written["particles"]
    convert_particles(picks, tmp_path / "project" / "six", "relion5", Known(tomograms=project))
    assert read_star(tmp_path / "project" / "six" / "optimisation_set.star")[""]["rlnTomoParticlesFile"] == "six/particles.star"
    convert_particles(picks, tmp_path / "alone", "relion5")
    assert read_star(tmp_path / "alone" / "optimisation_set.star")[""]["rlnTomoParticlesFile"] == "particles.star"


def test_nothing_is_no_file(tmp_path: Path) -> None:
    """RELION leaves the column empty for tomograms that it has not reconstructed; that is not the folder itself."""
    assert find_file("", [tmp_path]) is None
    assert find_file("None", [tmp_path]) is None
    picks = write_picks(tmp_path / "lab")
    star = picks.with_name("tomograms.star")
    table = read_star(star)["global"]
    assert isinstance(table, pd.DataFrame)
    write_star(star, {"global": table.assign(**{WAY: ""})})
    convert_particles(picks, tmp_path / "five", "relion5")
    assert read_star(tmp_path / "five" / "tomograms.star")["global"][WAY].tolist() == [""]


def test_masks_that_lead_elsewhere_are_nothing_to_relion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picks, project = write_picks(tmp_path / "project"), write_project(tmp_path / "project")
    (picks.parent / "masks").mkdir()
    write_mrc(picks.parent / "masks" / "a.mrc", Volume(np.zeros((8, 8, 8), np.float32), 10.0))
    table = read_star(picks)["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(picks, {"particles": table.assign(triptychMask="masks/a.mrc")})
    convert_particles(picks, tmp_path / "project" / "five", "relion5", Known(tomograms=project))
    assert read_star(tmp_path / "project" / "five" / "particles.star")["particles"]["triptychMask"][0] == "../picks/masks/a.mrc"
    assert not caplog.records


def test_places_outside_their_tomograms_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mrc(tmp_path / "t.mrc", Volume(np.zeros((20, 30, 40), np.float32), 10.0))
    (tmp_path / "a.csv").write_text("tomogram,x,y,z,score\nt,10,10,10,0.5\nt,500,10,10,\n")
    convert_particles(tmp_path / "a.csv", tmp_path / "a.tbl", "dynamo", Known(tomograms=tmp_path))
    assert "1 of 2 particles lie outside their tomograms" in caplog.text
    assert "1 of 2 particles have no score: 0 is written" in caplog.text
    table = pd.DataFrame({"rlnMicrographName": ["t", "t"], **{f"rlnCoordinate{axis}": [10, 12] for axis in "XYZ"}, "rlnLCCmax": ["0.5", "None"]})
    write_star(tmp_path / "a.star", {"": table.assign(rlnPixelSize=10.0)})
    convert_particles(tmp_path / "a.star", tmp_path / "b.star", "relion4")
    assert read_star(tmp_path / "b.star")["particles"]["rlnLCCmax"].tolist() == [0.5, 0.0]
    caplog.clear()
    convert_particles(tmp_path / "a.csv", tmp_path / "b.tbl", "dynamo", Known(tomograms=tmp_path / "t.mrc", tomogram="other"))
    assert "are said to be in the tomogram other, but are looked for in" in caplog.text
