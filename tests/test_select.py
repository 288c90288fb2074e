"""Tables that are thinned: which rows stay, that all else stays, and that paths lead to the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import write_model, write_mrc
from typer.testing import CliRunner

import triptych
from triptych.cli import app
from triptych.config import PredictConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io.convert import write_particles
from triptych.io.links import find_file, search_folders
from triptych.io.particle_lists import read_particles
from triptych.io.relion import optics_table, particle_columns, tomogram_row
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.particles import Frame
from triptych.stages.predict import predict

FOUND: dict[str, list[Any]] = {
    "triptychClass": ["rod", "ball", "rod", "none", "ball", "rod"],
    "triptychProbability": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    "triptychVerdict": ["rod", "unknown", "rod", "none", "ball", "unknown"],
    "triptychScore": [0.2, 0.3, 0.9, 0.1, 0.7, 0.9],
    "triptychGroup": [0, 1, 0, 0, 2, 1],
    "rlnTomoName": ["TS_1", "TS_1", "TS_2", "TS_2", "TS_1", "TS_2"],
}
SHAPE = (20, 30, 40)


def write_table(folder: Path, **columns: list[Any]) -> Path:
    blocks = {"optics": pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]}), "particles": pd.DataFrame({**FOUND, **columns})}
    folder.mkdir(parents=True, exist_ok=True)
    write_star(folder / "particles.star", blocks)
    return folder / "particles.star"


def write_picks(folder: Path, tomograms: Path, contrast: str = "bright") -> Path:
    """What pick writes of two tomograms whose headers tell no voxel size."""
    rows = []
    for seed, name in enumerate(("TS_1", "TS_2")):
        write_mrc(tomograms / f"{name}.mrc", np.random.default_rng(seed).normal(size=SHAPE), 0)
        rows.append(tomogram_row(name, f"../{tomograms.name}/{name}.mrc", Frame.of(SHAPE, 10.0)))
    positions = np.random.default_rng(2).uniform(60, 140, (6, 3))
    places = particle_columns(positions, np.broadcast_to(np.eye(3), (6, 3, 3)), Frame.of(SHAPE, 10.0))
    columns = {**FOUND, **places, "rlnOpticsGroup": [1] * 6, "triptychContrast": [contrast] * 6}
    folder.mkdir(parents=True, exist_ok=True)
    write_star(folder / "particles.star", {"optics": optics_table({10.0: 1}), "particles": pd.DataFrame(columns)})
    write_star(folder / "tomograms.star", {"global": pd.DataFrame(rows)})
    return folder


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"classes": ["rod"]}, [0, 2, 5]),
        ({"classes": ["rod", "none"]}, [0, 2, 3, 5]),
        ({"not_classes": ["rod", "none"]}, [1, 4]),
        ({"verdict": "known"}, [0, 2, 3, 4]),
        ({"verdict": "unknown"}, [1, 5]),
        ({"groups": [1, 2]}, [1, 4, 5]),
        ({"groups": [0], "classes": ["rod"]}, [0, 2]),
        ({"min_probability": 0.7}, [0, 1, 2]),
        ({"min_score": 0.3}, [1, 2, 4, 5]),
        ({"tomograms": ["TS_1"]}, [0, 1, 4]),
        ({"tomograms": ["TS_1.tomostar"]}, [0, 1, 4]),
        ({"best": 1}, [2, 3, 4]),
        ({"best": 2, "not_classes": ["none"]}, [1, 2, 4, 5]),
        ({"best": 1, "verdict": "unknown"}, [1, 5]),
        ({"classes": ["rod"], "min_score": 0.5, "min_probability": 0.5}, [2]),
    ],
)
def test_rows_that_meet_every_condition_stay_as_they_were(conditions: dict[str, Any], rows: list[int], tmp_path: Path) -> None:
    star = write_table(tmp_path, other=["a", "b", "c", "d", "e", "f"])
    counts = triptych.select(star, tmp_path / "chosen.star", **conditions)
    before, after = read_star(star), read_star(tmp_path / "chosen.star")
    assert list(after) == list(before)
    assert after["optics"].equals(before["optics"])
    assert after["particles"].equals(before["particles"].iloc[rows].reset_index(drop=True))
    assert counts["before"].to_dict() == {"rod": 3, "ball": 2, "none": 1}
    assert counts["after"].sum() == len(rows)
    assert counts["after"]["ball"] == len({1, 4} & set(rows))


def test_scores_of_other_programs_will_do(tmp_path: Path) -> None:
    star = write_table(tmp_path)
    blocks = read_star(star)
    table = blocks["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(star, {**blocks, "particles": table.drop(columns="triptychScore").assign(rlnAutopickFigureOfMerit=[1.0, 5.0, 9.0, 2.0, 3.0, 4.0])})
    triptych.select(star, tmp_path / "chosen.star", min_score=4)
    assert read_star(tmp_path / "chosen.star")["particles"]["rlnAutopickFigureOfMerit"].tolist() == [5, 9, 4]


def test_the_best_are_those_of_the_last_score(tmp_path: Path) -> None:
    scores = {"triptychAlignmentScore": [0.5, 0.6, 0.1, 0.2, 0.3, 0.4], "triptychPoseProbability": [0.2, 0.9, 0.95, 0.1, 1.0, 0.3]}
    star = write_table(tmp_path, **scores, triptychFidelity=[0.9, 0.7, 0.95, 0.96, 0.5, 0.94])
    triptych.select(star, tmp_path / "best.star", best=1)
    triptych.select(star, tmp_path / "aligned.star", min_alignment_score=0.5)
    triptych.select(star, tmp_path / "sure.star", min_pose_probability=0.9)
    triptych.select(star, tmp_path / "clear.star", min_fidelity=0.95)
    for name, rows in (("best", [0, 1, 3]), ("aligned", [0, 1]), ("sure", [1, 2, 4]), ("clear", [2, 3])):
        found = read_star(tmp_path / f"{name}.star")["particles"]
        assert found["triptychProbability"].tolist() == [FOUND["triptychProbability"][row] for row in rows]


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ({"classes": ["rod", "Ball"]}, 'no particle of the class "Ball": it has ball, none, rod'),
        ({"not_classes": ["cone"]}, 'no particle of the class "cone": it has ball, none, rod'),
        ({"tomograms": ["TS_3"]}, 'no particle of the tomogram "TS_3": it has TS_1, TS_2'),
        ({"verdict": "rod"}, "known or unknown was expected"),
        ({"min_alignment_score": 0.5}, "has no column _triptychAlignmentScore, which orient writes"),
        ({"min_fidelity": 0.9}, "has no column _triptychFidelity, which pick and predict write with a model that can tell"),
        ({"min_score": 0.95}, "none of the 6 particles"),
        ({"min_score": float("nan")}, "_triptychScore is to be nan at least"),
        ({"min_probability": 2.0}, "outside of 0 to 1"),
        ({"classes": ["rod"], "not_classes": ["rod"]}, "both to be kept and to be left out"),
    ],
)
def test_what_cannot_be_chosen_is_said_and_nothing_written(conditions: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    star = write_table(tmp_path)
    with pytest.raises(InputError, match=sentence):
        triptych.select(star, tmp_path / "chosen.star", **conditions)
    assert [path.name for path in tmp_path.iterdir()] == ["particles.star"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    star = write_table(tmp_path)
    for out, sentence in ((star, "exists already"), (tmp_path / "chosen", "ends in .star")):
        with pytest.raises(InputError, match=sentence):
            triptych.select(tmp_path, out)
    assert len(read_star(star)["particles"]) == 6


def test_images_masks_and_densities_are_found_from_elsewhere(tmp_path: Path) -> None:
    """Images may be named from a folder above the table, as RELION names them from that of the project; masks and densities are beside it."""
    project, predictions = tmp_path / "project", tmp_path / "project/job/predictions"
    columns = {"rlnImageName": "images/{}.mrc", "rlnCtfImage": "ctf/{}.mrc", "triptychMask": "masks/{}.mrc", "triptychDensity": "densities/{}.mrc"}
    for column, form in columns.items():
        for name in "abcdef":
            path = (project if column.startswith("rln") else predictions) / form.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{column} {name}")
    star = write_table(predictions, **{column: [form.format(name) for name in "abcdef"] for column, form in columns.items()})
    for out in (project / "chosen.star", predictions / "chosen.star", tmp_path / "far/away/chosen.star"):
        triptych.select(predictions, out, classes=["ball"])
        table = read_star(out)["particles"]
        for column in columns:
            paths = [find_file(way, search_folders(out) if column.startswith("rln") else (out.parent,)) for way in table[column]]
            assert [path and path.read_text() for path in paths] == [f"{column} b", f"{column} e"]
    assert read_star(project / "chosen.star")["particles"]["rlnImageName"].tolist() == ["images/b.mrc", "images/e.mrc"]
    (predictions / "masks/b.mrc").unlink()
    triptych.select(star, project / "again.star", classes=["ball"])
    assert read_star(project / "again.star")["particles"]["triptychMask"].tolist() == ["masks/b.mrc", "job/predictions/masks/e.mrc"]


def test_picks_are_cut_from_the_same_tomograms(tmp_path: Path) -> None:
    """Which tomogram, which voxel size and which contrast stand beside the picks; what is chosen must know them wherever it lies."""
    picks = write_picks(tmp_path / "picks", tmp_path / "tomograms")
    everything = open_particles(picks / "particles.star", PredictConfig(), 80.0)
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    for place in ("picks", "far", "link"):
        out = tmp_path / place / "chosen.star"
        triptych.select(picks, out, classes=["rod"])
        source = open_particles(out, PredictConfig(), 80.0)
        assert source.contrast == "bright"
        for row, given in enumerate((0, 2, 5)):
            assert np.array_equal(source.read(row).data, everything.read(given).data)
        assert "all 2 found" in dict(describe_file(out).facts)["tomograms' files"]
        triptych.select(out, tmp_path / place / "again.star", tomograms=["TS_2"])
        assert np.array_equal(open_particles(tmp_path / place / "again.star", PredictConfig(), 80.0).read(0).data, everything.read(2).data)


def test_ways_up_to_tomograms_that_are_elsewhere_just_now_lead_there_later(tmp_path: Path) -> None:
    """Chosen on a laptop, where there are no tomograms, or while their disk is not mounted."""
    picks, tomograms = write_picks(tmp_path / "picks", tmp_path / "tomograms"), tmp_path / "tomograms"
    tomograms.rename(tmp_path / "away")
    triptych.select(picks, tmp_path / "chosen.star", classes=["rod"])
    (tmp_path / "away").rename(tomograms)
    assert len(open_particles(tmp_path / "chosen.star", PredictConfig(), 100.0)) == 3


def test_predict_takes_what_is_chosen_and_says_with_which_contrast(tmp_path: Path) -> None:
    triptych.select(write_picks(tmp_path / "picks", tmp_path / "tomograms"), tmp_path / "far/chosen.star", best=1)
    model = write_model(tmp_path / "model")
    for settings, contrast in ((PredictConfig(), "bright"), (PredictConfig(contrast="dark"), "dark")):
        out = predict(tmp_path / "far/chosen.star", tmp_path / contrast, model, settings)
        assert read_star(out / "particles.star")["particles"]["triptychContrast"].tolist() == [contrast] * 3


@pytest.mark.parametrize("target", ["relion4", "relion3.1", "dynamo"])
def test_what_is_chosen_is_converted_as_the_whole_is(target: str, tmp_path: Path) -> None:
    picks = write_picks(tmp_path / "picks", tmp_path / "tomograms")
    triptych.select(picks, tmp_path / "chosen.star", verdict="known")
    name = "list.tbl" if target == "dynamo" else "list.star"
    write_particles(tmp_path / name, read_particles(tmp_path / "chosen.star"), target)
    wanted, found = read_particles(picks / "particles.star").positions, read_particles(tmp_path / name).positions
    assert wanted is not None
    assert found == pytest.approx(wanted[[0, 2, 3, 4]])


def test_the_command_prints_what_remains(tmp_path: Path) -> None:
    write_table(tmp_path)
    words = ["select", str(tmp_path), str(tmp_path / "chosen.star"), "--class", "rod", "--class", "ball", "--min-score", "0.5", "--best", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = [[word for word in line.split() if word.isalnum()] for line in result.stdout.splitlines()]
    assert [row for row in rows if len(row) == 3] == [["class", "before", "after"], ["rod", "3", "1"], ["ball", "2", "1"], ["none", "1", "0"]]
    assert len(read_star(tmp_path / "chosen.star")["particles"]) == 2
