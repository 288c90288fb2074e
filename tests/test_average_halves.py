"""Tomograms that were reconstructed in halves, made whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import write_mrc

from triptych.config import PredictConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io.links import find_file, search_folders
from triptych.io.manifest import read_manifest
from triptych.io.mrc import read_mrc
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.io.stated import HALVES, list_tomograms
from triptych.stages.average_halves import average_halves

SHAPE = (20, 6, 8)


def write_halves(folder: Path, *names: str, stated: float = 13.5, **columns: list[object]) -> Path:
    """The table of a job of RELION 5 in a project, paths beginning at the project; the headers of the first halves say no voxel size."""
    rng = np.random.default_rng(0)
    job = folder / "Tomograms/job1"
    job.mkdir(parents=True)
    for name in names:
        write_mrc(job / f"rec_{name}_half1.mrc", rng.normal(size=SHAPE).astype(np.float32), 0)
        write_mrc(job / f"rec_{name}_half2.mrc", rng.normal(size=SHAPE).astype(np.float32), stated)
    ways = {column: [f"Tomograms/job1/rec_{name}_half{k}.mrc" for name in names] for k, column in enumerate(HALVES, start=1)}
    sizes = {"rlnTomoTiltSeriesPixelSize": 1.35, "rlnTomoTomogramBinning": 10.0}
    write_star(job / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": list(names), **sizes, **ways, **columns})})
    return job / "tomograms.star"


@pytest.mark.parametrize("as_set", [True, False])
def test_whole_tomograms_are_the_mean_of_their_halves(as_set: bool, tmp_path: Path) -> None:
    star = write_halves(tmp_path, "a", "b")
    given = star
    if as_set:
        given = tmp_path / "optimisation_set.star"
        write_star(given, {"": {"rlnTomoTomogramsFile": "Tomograms/job1/tomograms.star"}})
    out = average_halves(given, tmp_path / "whole")
    table = read_star(out / "tomograms.star")["global"]
    assert [(tomogram.name, tomogram.path) for tomogram in list_tomograms([out / "tomograms.star"])] == [
        (name, out / f"tomograms/{name}.mrc") for name in "ab"
    ]
    for name in "ab":
        halves = [read_mrc(star.parent / f"rec_{name}_half{k}.mrc", 13.5).data for k in (1, 2)]
        whole = read_mrc(out / f"tomograms/{name}.mrc")
        np.testing.assert_allclose(whole.data, np.mean(halves, axis=0), atol=1e-6)
        assert whole.voxel_size == pytest.approx(13.5)
    assert table["rlnTomoTomogramBinning"].tolist() == [10, 10]
    assert find_file(table[HALVES[1]][1], search_folders(out / "tomograms.star")) == tmp_path / "Tomograms/job1/rec_b_half2.mrc"
    assert len(read_manifest(out)["inputs"]) == 5 + as_set  # the set and the table that it names
    with pytest.raises(InputError, match="exists already"):
        average_halves(given, out)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star = write_halves(tmp_path, "a", "b")

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        average_halves(star, tmp_path / "whole", stop)
    assert not (tmp_path / "whole").exists()
    seen: list[int] = []
    out = average_halves(star, tmp_path / "whole", lambda done, _: seen.append(done))
    assert seen == [1, 2]
    assert sorted(path.name for path in (out / "tomograms").iterdir()) == ["a.mrc", "b.mrc"]


def test_what_is_not_reconstructed_yet_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    star = write_halves(tmp_path, "a", "b")
    table = read_star(star)["global"]
    table.loc[1, HALVES[1]] = "None"
    write_star(star, {"global": table})
    out = average_halves(star, tmp_path / "whole")
    assert read_star(out / "tomograms.star")["global"]["rlnTomoName"].tolist() == ["a"]
    assert "1 of 2 tomograms" in caplog.text


def test_denoised_ones_are_advised_against_where_there_are_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    star = write_halves(tmp_path, "a", rlnTomoReconstructedTomogramDenoised=["Tomograms/job1/rec_a_half2.mrc"])
    assert len(list_tomograms([star])) == 1
    assert f"triptych average-halves {star} WHOLE" in caplog.text


def test_bad_halves_end_in_a_sentence_and_leave_nothing(tmp_path: Path) -> None:
    star = write_halves(tmp_path, "a")
    second = star.parent / "rec_a_half2.mrc"
    good = second.read_bytes()
    for values, stated, sentence in (
        (np.zeros((4, 6, 8), np.float32), 13.5, "8 x 6 x 20 voxels of 13.5 Å and .* has 8 x 6 x 4 voxels"),
        (np.zeros(SHAPE, np.float32), 20.0, "has 8 x 6 x 20 voxels of 20 Å, but two halves"),
    ):
        write_mrc(second, values, stated)
        with pytest.raises(InputError, match=sentence):
            average_halves(star, tmp_path / "whole")
    spoiled = np.frombuffer(good[1024:], np.float32).reshape(SHAPE).copy()
    spoiled[3, 2, 1] = np.nan
    second.write_bytes(good[:1024] + spoiled.tobytes())
    with pytest.raises(InputError, match=r"rec_a_half2\.mrc"):
        average_halves(star, tmp_path / "whole")
    second.unlink()
    with pytest.raises(InputError, match="neither under"):
        average_halves(star, tmp_path / "whole")
    table = read_star(star)["global"]
    write_star(star, {"global": table.assign(**{HALVES[1]: table[HALVES[0]]})})
    with pytest.raises(InputError, match="as both halves of the tomogram a"):
        average_halves(star, tmp_path / "whole")
    write_star(star, {"global": table.drop(columns=[*HALVES, "rlnTomoTomogramBinning"])})
    with pytest.raises(InputError, match="names no halves of tomograms"):
        average_halves(star, tmp_path / "whole")
    write_star(star, {"global": table.drop(columns="rlnTomoTomogramBinning").assign(**{HALVES[1]: table[HALVES[0]].str.replace("1.mrc", "2.mrc")})})
    second.write_bytes(good)
    with pytest.raises(InputError, match="says how many Å a voxel has"):
        average_halves(star, tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["Tomograms"]


def test_what_lies_in_halves_is_told_how_it_is_made_whole(tmp_path: Path) -> None:
    star = write_halves(tmp_path, "a")
    assert "`triptych average-halves` makes whole ones" in describe_file(star).warnings[0]
    centered = {f"rlnCenteredCoordinate{axis}Angst": [0.0] for axis in "XYZ"}
    write_star(star.with_name("particles.star"), {"particles": pd.DataFrame({"rlnTomoName": ["a"], **centered})})
    with pytest.raises(InputError, match=r"2 files in .* could be the tomogram a .*`triptych average-halves"):
        open_particles(star.with_name("particles.star"), PredictConfig(), 80.0)
