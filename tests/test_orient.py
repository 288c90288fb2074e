"""`orient` on make-believe predictions: poses against the truth, and what is left out, refused, interrupted or divided."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_predictions import VOXEL_SIZE, draw_balls, make_fake, make_shape
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from test_contrast import make_noise, remove_wedge
from test_report import Page
from tiny import hashes, write_model, write_mrc
from typer.testing import CliRunner

from triptych.alignment.align import Alignment
from triptych.alignment.boxes import Boxes, find_tilt_ranges, open_boxes
from triptych.alignment.hand import Hand, choose_sample, tell_hand
from triptych.alignment.identify import mirror
from triptych.alignment.rivals import INDEPENDENT, Stacks, better, choose_trials, count_measured, name_particles, weigh
from triptych.alignment.rotations import angular_errors
from triptych.alignment.structure_fit import fit_levels
from triptych.cli import app
from triptych.config import AlignConfig, DiscoverConfig, OrientConfig, PredictConfig, ReportConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.fourier import wedge_weights
from triptych.io.manifest import describe_input, hash_file, read_manifest
from triptych.io.mrc import read_mrc
from triptych.io.predictions import read_predictions
from triptych.io.relion import ANGLES, rotations_from_angles
from triptych.io.source import open_particles
from triptych.io.star import probability_columns, read_star, write_star
from triptych.io.store import open_store
from triptych.judging.metrics import density_correlation, intersection_over_union
from triptych.pages.orient_page import ClassAverage
from triptych.simulation.library import write_library
from triptych.simulation.specimen import OVERSAMPLING
from triptych.simulation.structures import Structure
from triptych.stages.discover import choose_particles
from triptych.stages.orient import BLOCK, find_doubtful, open_orienter, orient, pose_template
from triptych.stages.predict import OF_A_MODEL, predict
from triptych.stages.report import report
from triptych.stages.select import select
from triptych.volume import Volume

SIZE = 24
CLASSES = ("ribosome_70s", "proteasome_20s", "none")
ALIGN = AlignConfig(step=30, candidates=2, resolution=30, coarse_resolution=45, max_shift=30)


def make_structure(name: str, index: int) -> Structure:
    density = draw_balls(make_shape(index, np.random.default_rng(index)), SIZE).astype(np.float32)
    return Structure(name, Volume(density, VOXEL_SIZE), 500.0, 0.35, "made for a test")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures") / "library"
    write_library([make_structure(name, index) for index, name in enumerate(CLASSES[:2])], folder)
    return folder


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake(tmp_path_factory.mktemp("fake"), count=18, size=SIZE, class_names=CLASSES, snr=(1.0, 2.0)).predictions


@pytest.fixture(scope="module")
def settings(library: Path) -> OrientConfig:
    # the fake neighbours lie in the way of the subtomograms
    return OrientConfig(library=library, align=ALIGN, tilt_range=(-60, 60), align_by="recovered")


@pytest.fixture(scope="module")
def posed(predictions: Path, settings: OrientConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return orient(predictions, tmp_path_factory.mktemp("posed") / "poses", settings)


def with_verdicts(predictions: Path, folder: Path, verdicts: list[str]) -> Path:
    """The same predictions, whose model had a novelty."""
    folder.mkdir()
    for item in predictions.iterdir():
        if item.name != "particles.star":
            (folder / item.name).symlink_to(item)
    table = read_star(predictions / "particles.star")["particles"].assign(triptychVerdict=verdicts, triptychNovelty=0.5)
    write_star(folder / "particles.star", {"particles": table})
    return folder


# -------------------------------------------------------------------------------------------------------------- poses


def test_rows_may_be_sorted_and_taken_out(posed: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    some = with_verdicts(predictions, tmp_path / "some", ["known"] * 18)
    table = read_star(some / "particles.star")["particles"]
    write_star(some / "particles.star", {"particles": table.iloc[::-2]})
    found = read_star(orient(some, tmp_path / "poses", settings) / "particles.star")["particles"].set_index("triptychName")
    every = read_star(posed / "particles.star")["particles"].set_index("triptychName")
    assert sorted(found.index) == sorted(set(table["triptychName"].iloc[::-2]) & set(every.index))
    kept = [*ANGLES, "rlnOriginXAngst", "triptychClass", "triptychTrueClass", "triptychAlignmentScore", *probability_columns(CLASSES)]
    pd.testing.assert_frame_equal(found[kept], every.loc[found.index, kept])
    density = found["triptychDensity"].iloc[0]
    assert hash_file(tmp_path / "poses" / density) == hash_file(posed / density)


def test_the_library_is_an_input(posed: Path, library: Path) -> None:
    """So that a rerun notices whether it has changed."""
    assert describe_input(library) in json.loads((posed / "manifest.json").read_text())["inputs"]


def test_structures_lie_where_the_particles_are(posed: Path, predictions: Path) -> None:
    table = read_star(posed / "particles.star")["particles"]
    given, truth = read_predictions(predictions), open_store(predictions.parent / "truth.zarr")
    assert given.label is not None
    assert table["triptychName"].tolist() == [name for name, label in zip(given.names, given.label, strict=True) if CLASSES[label] != "none"]
    rows = np.array([given.names.index(name) for name in table["triptychName"]])
    right = given.label[rows] == truth["label"][:][rows]
    assert right.mean() > 0.8  # the fake network errs now and then
    assert table["triptychTrueClass"].tolist() == [CLASSES[label] for label in truth["label"][:][rows]]
    masks, densities = (np.stack([read_mrc(posed / path).data for path in table[f"triptych{kind}"]]) for kind in ("Mask", "Density"))
    iou = intersection_over_union(masks > 0.5, truth.read_rows("mask", rows))
    correlation = density_correlation(densities, truth.read_rows("density", rows))
    assert np.median(iou[right]) > 0.9
    assert np.median(correlation[right]) > 0.97
    assert (correlation[right] > 0.9).mean() > 0.8
    assert np.isfinite(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "triptychAlignmentScore"]].to_numpy()).all()
    assert "triptychEmbeddingRow" not in table  # there is no embedding.npy here


def test_poses_are_refined_by_the_subtomograms(posed: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    refined = orient(predictions, tmp_path / "refined", settings.model_copy(update={"align_by": "both", "classes": (CLASSES[0],)}))
    after = read_star(refined / "particles.star")["particles"]
    before = read_star(posed / "particles.star")["particles"]
    before = before[before["triptychName"].isin(after["triptychName"])].reset_index(drop=True)
    assert (after["rlnAngleTilt"] != before["rlnAngleTilt"]).all()
    turned = angular_errors(*(rotations_from_angles(table[list(ANGLES)].to_numpy(np.float64)) for table in (before, after)))
    assert np.median(turned) < 25  # it stays near where it began
    # the score is that of the subtomogram now, which holds noise and neighbours
    assert after["triptychAlignmentScore"].median() < before["triptychAlignmentScore"].median()
    # all that is of these poses goes where the particles are predicted anew
    new = set(after) - set(read_predictions(predictions).table)
    assert all(name.startswith((*OF_A_MODEL, "rln", "triptychTrueClass")) for name in new)
    assert "triptychPoseProbability" in new
    # which poses of the structure fit else, only the subtomograms tell
    assert "triptychPoseProbability" not in before
    assert after["triptychPoseProbability"].between(0, 1).all()
    classes = read_star(refined / "classes.star")["classes"]
    assert np.allclose(classes["triptychPoseProbability"], after["triptychPoseProbability"].median(), atol=1e-6)
    assert "median pose probability" in Page(refined / "report.html").text


def test_averages_agree_with_their_structures(posed: Path, library: Path) -> None:
    table = read_star(posed / "classes.star")["classes"]
    assert table["triptychClass"].tolist() == list(CLASSES[:2])
    assert table["rlnClassNumber"].tolist() == [1, 2]
    assert (table["triptychResolution"] < 60).all()
    assert table["triptychParticles"].sum() == len(read_star(posed / "particles.star")["particles"])
    for path in table["triptychAverage"]:
        volume = read_mrc(posed / path)
        assert (volume.shape, volume.voxel_size) == ((SIZE,) * 3, VOXEL_SIZE)


def test_page_needs_nothing_but_itself(posed: Path) -> None:
    page = Page(posed / "report.html")
    assert "script" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    text = " ".join(page.words)
    assert all(name.split("_")[0] in text for name in CLASSES[:2])


def test_report_judges_what_was_placed(posed: Path, predictions: Path, tmp_path: Path) -> None:
    truth, table = predictions.parent / "truth.zarr", read_star(posed / "particles.star")["particles"]
    made = report(posed, tmp_path / "report", truth, ReportConfig(gallery=2))
    found = json.loads((made / "metrics.json").read_text())
    assert found["particles"] == len(table)
    assert found["accuracy"] == pytest.approx((table["triptychClass"] == table["triptychTrueClass"]).mean())
    assert found["mean_iou"] > 0.85
    page = Page(made / "report.html")
    assert "Structure in its pose" in page.text
    assert "Low-passed" in page.text  # the subtomograms were found
    for title, folder in (("Predicted", predictions), ("Oriented", posed)):
        assert f"{title}{json.loads((folder / 'manifest.json').read_text())['created']}" in page.text
    with pytest.raises(InputError, match="written by `triptych orient`"):
        orient(posed, tmp_path / "again")
    moved = tmp_path / "moved"
    shutil.copytree(posed, moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps({**manifest, "arguments": {"predictions": str(tmp_path / "gone")}}))
    with pytest.raises(InputError, match="made from predictions that cannot be read any more"):
        report(moved, tmp_path / "none")


def test_what_is_placed_is_turned_and_moved() -> None:
    template = torch.zeros((2 * OVERSAMPLING * 8,) * 3)
    middle = OVERSAMPLING * 8
    template[middle, middle, middle + OVERSAMPLING * 3] = 1  # three voxels along x
    turn = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert np.argwhere(pose_template(template, np.eye(3), np.zeros(3), (12, 14, 16))).tolist() == [[6, 7, 11]]
    assert np.argwhere(pose_template(template, turn, np.array([1.0, 0, -2]), (12, 14, 16))).tolist() == [[4, 10, 9]]


def test_tables_name_the_tomograms_so_that_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, although the settings named the tomograms as they are called from the one that predict ran in; and through links."""
    model = write_model(tmp_path / "model")
    write_mrc(tmp_path / "tomograms/a.mrc", np.random.default_rng(0).normal(size=(40, 40, 40)), VOXEL_SIZE)
    place = {f"rlnCoordinate{axis}": [20.0, 22.0] for axis in "XYZ"}
    table = pd.DataFrame({"rlnTomoName": ["a", "a"], **place, "rlnTomoTiltSeriesPixelSize": VOXEL_SIZE})
    write_star(tmp_path / "particles.star", {"particles": table})
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        predict("particles.star", "run/predictions", model, PredictConfig(tomograms=Path("tomograms")))
    out = tmp_path / "run/predictions"
    boxes = open_boxes(read_predictions(out), OrientConfig(tilt_range=(-60, 60)))
    (tmp_path / "far/away/poses").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    for elsewhere in (tmp_path / "far/away/poses", tmp_path / "link/poses"):
        table = boxes.refer_from(elsewhere)
        for tomogram, mask, name in zip(table["rlnTomoReconstructedTomogram"], table["triptychMask"], table["triptychName"], strict=True):
            assert (elsewhere / tomogram).samefile(tmp_path / "tomograms/a.mrc")
            assert (elsewhere / mask).samefile(out / f"masks/{name}.mrc")
    (tmp_path / "tomograms").rename(tmp_path / "tomograms_of_2026")
    with pytest.raises(InputError, match=r"cannot be read again .*: put back what was there, or predict again"):
        open_boxes(read_predictions(out), OrientConfig())


# ------------------------------------------------------------------------------------------- what is left out or refused


def test_unknown_particles_are_left_out_unless_wanted(predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    called = read_star(predictions / "particles.star")["particles"]["triptychClass"].tolist()
    first = called.index(CLASSES[0])
    verdicts = [name if place != first else "unknown" for place, name in enumerate(called)]
    doubted = with_verdicts(predictions, tmp_path / "doubted", verdicts)
    quick = settings.model_copy(update={"classes": (CLASSES[0],), "write_masks": False, "write_densities": False})
    found = [
        len(read_star(orient(doubted, tmp_path / str(unknown), quick.model_copy(update={"unknown": unknown})) / "particles.star")["particles"])
        for unknown in (False, True)
    ]
    assert found == [called.count(CLASSES[0]) - 1, called.count(CLASSES[0])]
    assert not (tmp_path / "True/masks").exists()
    table = read_star(tmp_path / "True/particles.star")["particles"]
    assert (tmp_path / "True" / table["triptychMask"][0]).is_file()  # the network's own


def test_a_list_says_which_particles_to_take(posed: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    """As `select` writes it, from wherever; what is not in it is told of, and is as if it were not there."""
    listed = tmp_path / "chosen.star"
    select(predictions, listed, classes=[CLASSES[0]], best=2)
    names = read_star(listed)["particles"]["triptychName"].tolist()
    quick = settings.model_copy(update={"only": listed, "write_masks": False, "write_densities": False})
    out = orient(predictions, tmp_path / "poses", quick)
    table, every = (read_star(folder / "particles.star")["particles"].set_index("triptychName") for folder in (out, posed))
    assert sorted(table.index) == sorted(names)
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    np.testing.assert_allclose(table[angles], every.loc[table.index, angles], atol=1e-3)
    about = read_manifest(out)
    assert about["particles"]["left_out"]["not in the list of those to take (only)"] == len(read_predictions(predictions)) - 2
    assert str(listed) in [given["path"] for given in about["inputs"]]
    write_star(listed, {"particles": pd.DataFrame({"triptychName": [names[0], "stranger"]})})
    with pytest.raises(InputError, match=r"chosen\.star lists 1 particle that .* does not have \(stranger\)"):
        orient(predictions, tmp_path / "other", quick)
    for block in (pd.DataFrame({"rlnTomoName": ["a"]}), {"triptychName": names[0]}):
        write_star(listed, {"particles": block})
        with pytest.raises(InputError, match="has no column _triptychName"):
            orient(predictions, tmp_path / "other", quick)


@pytest.mark.parametrize(
    ("axis", "low", "high", "expected"),
    [
        (1, -60, 60, r"tilts from -60 to 60 degrees are assumed \(--set tilt_range="),
        (1, -38, 70, r"tilts from -60 to 60 degrees are assumed, but .* as with --set tilt_range=\[-[34]\d,[67]\d\]$"),
        (2, -60, 60, r"tilts from about -[56]\d° to [56]\d° around x, beam along z, but tilts around y .* expected"),
    ],
)
def test_assumed_tilts_are_compared_with_the_power_spectra(
    axis: int, low: int, high: int, expected: str, predictions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The range that is seen is told in the sense in which the setting counts."""
    for seed in range(4):
        write_mrc(tmp_path / f"{seed}.mrc", remove_wedge(make_noise(32, seed), 0, axis, low, high).data, VOXEL_SIZE)
    source = open_particles(tmp_path, PredictConfig(), 100.0)
    boxes = Boxes(read_predictions(predictions), source, None, *find_tilt_ranges(source, None, OrientConfig()), None, "")
    with caplog.at_level(logging.WARNING):
        boxes.warn_of_tilts()
        messages = caplog.messages.copy()
        caplog.clear()
        stated = replace(boxes, tilts_from="as set")
        stated.warn_of_tilts()
    assert any(re.search(expected, message) for message in messages)
    assert sum("are assumed" in message for message in messages) == 1
    assert len(caplog.messages) == (axis == 2)  # what is stated counts, but an axis that no one expects


def test_the_manifest_says_which_tilts_counted(posed: Path) -> None:
    about = read_manifest(posed)
    assert (about["tilt_ranges"], about["tilt_ranges_are"]) == ([[-60, 60]], "as set")


def test_classes_without_a_structure_get_no_pose(
    predictions: Path, settings: OrientConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_library([make_structure(CLASSES[1], 1)], tmp_path / "one")
    quick = settings.model_copy(update={"library": tmp_path / "one", "write_masks": False, "write_densities": False})
    with caplog.at_level(logging.WARNING):
        orient(predictions, tmp_path / "poses", quick)
    assert f"no structure called {CLASSES[0]}" in caplog.text
    assert "fetch-classes" not in caplog.text  # which would not help
    (tmp_path / "entries.csv").write_text(f"name\n{CLASSES[0]}\n")
    monkeypatch.setattr("triptych.simulation.library.CLASS_ENTRIES", tmp_path / "entries.csv")
    open_orienter(predictions, quick)
    assert "`triptych structures fetch-classes LIBRARY`" in caplog.text
    assert set(read_star(tmp_path / "poses/particles.star")["particles"]["triptychClass"]) == {CLASSES[1]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"library": Path("nowhere")}, "the library nowhere does not exist"),
        ({"library": None, "classes": ("ribosme",)}, "the model knows ribosome_70s"),
        ({"classes": ("none",)}, "nothing to orient"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    change: dict[str, object], sentence: str, predictions: Path, settings: OrientConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        orient(predictions, tmp_path / "poses", settings.model_copy(update=change))
    assert not list(tmp_path.iterdir())


def test_a_library_without_any_of_the_classes_is_refused(predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    write_library([make_structure("spike", 1)], tmp_path / "other")
    with pytest.raises(InputError, match="no structure called ribosome_70s, proteasome_20s"):
        orient(predictions, tmp_path / "poses", settings.model_copy(update={"library": tmp_path / "other"}))


# ------------------------------------------------------------------------------------------------------- second opinion


def test_particles_that_do_not_fit_are_unknown(posed: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    """The library's names are exchanged, so that no particle is what it is called; known ones are of the right library."""
    write_library([make_structure(name, 1 - index) for index, name in enumerate(CLASSES[:2])], tmp_path / "exchanged")
    quick = settings.model_copy(update={"known": posed, "write_masks": False, "write_densities": False})
    same = read_star(orient(predictions, tmp_path / "same", quick) / "particles.star")["particles"]
    other = quick.model_copy(update={"library": tmp_path / "exchanged"})
    wrong = read_star(orient(predictions, tmp_path / "wrong", other) / "particles.star")["particles"]
    assert (same["triptychVerdict"] == "unknown").mean() < 0.2
    assert (wrong["triptychVerdict"] == "unknown").mean() > 0.8
    assert (wrong["triptychStructureFit"] < same["triptychStructureFit"]).mean() > 0.8
    config = DiscoverConfig(poses=tmp_path / "wrong", align=ALIGN, group={"smallest": 2})
    chosen = choose_particles(read_predictions(predictions), config)
    assert len(chosen) == (wrong["triptychVerdict"] == "unknown").sum()
    with pytest.raises(InputError, match="with its setting known, was expected"):
        choose_particles(read_predictions(predictions), config.model_copy(update={"poses": posed}))
    others = make_fake(tmp_path / "others", count=18, size=SIZE, class_names=CLASSES, seed=1).predictions  # called the same, as all simulated ones
    with pytest.raises(InputError, match="was not made from"):
        choose_particles(read_predictions(others), config)


def test_known_particles_must_be_what_orient_wrote(posed: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was written by `triptych predict`"):
        orient(predictions, tmp_path / "poses", settings.model_copy(update={"known": predictions}))
    assert not list(tmp_path.iterdir())
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    (spoiled / "manifest.json").write_text((posed / "manifest.json").read_text())
    table = read_star(posed / "particles.star")["particles"]
    for fit, sentence in (("high", "triptychStructureFit"), (None, "has no particles with _triptychStructureFit")):
        changed = table.drop(columns="triptychStructureFit") if fit is None else table.assign(triptychStructureFit=fit)
        write_star(spoiled / "particles.star", {"particles": changed})
        with pytest.raises(InputError, match=sentence):
            orient(predictions, tmp_path / "poses", settings.model_copy(update={"known": spoiled}))


def test_levels_accept_the_share_that_they_were_fitted_for() -> None:
    rng = np.random.default_rng(0)
    names = ["tight"] * 300 + ["loose"] * 300 + ["rare"] * 2
    fits = np.concatenate([rng.normal(0.95, 0.005, 300), rng.normal(0.8, 0.05, 300), [0.9, 0.9]])
    levels = fit_levels(names, fits, 0.9)
    assert (levels.novelty(names, fits) < 0.5).mean() == pytest.approx(0.9, abs=0.01)
    assert levels.novelty(["tight", "loose"], np.array([0.9, 0.9])).tolist() == pytest.approx([1, 0], abs=0.1)
    assert "rare" not in levels.classes  # judged by what is common to all
    mixed = names + ["tight"] * 200  # as many of another kind, called the same
    right = np.arange(len(mixed)) < len(names)
    blind, told = (fit_levels(mixed, np.append(fits, rng.normal(0.7, 0.05, 200)), 0.9, known) for known in (None, right))
    assert told.classes["tight"] == levels.classes["tight"]
    assert blind.classes["tight"] != levels.classes["tight"]
    falling = levels.novelty(["rare"] * 3, np.array([0.9, 0.6, -0.2]))
    assert (np.diff(falling) > 0).all()


def test_the_share_is_that_of_particles_which_the_levels_do_not_know() -> None:
    kinds = np.array([f"kind_{i}" for i in range(12)])
    known, others, shares = np.repeat(kinds, 8), np.repeat(kinds, 400), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        level = dict(zip(kinds, rng.uniform(0.7, 0.95, 12), strict=True))
        rng.shuffle(known)
        first, second = (np.array([level[name] for name in names]) * np.exp(rng.normal(0, 0.02, len(names))) for names in (known, others))
        levels = fit_levels(known.tolist(), first, 0.9)
        shares.append((levels.novelty(others.tolist(), second) < 0.5).mean())
    assert np.mean(shares) == pytest.approx(0.9, abs=0.03)  # 0.83 by the particles that the levels were taken from


# ------------------------------------------------------------------------------------------------------------- rivals


def test_the_structure_that_fits_the_subtomogram_names_the_particle(
    predictions: Path, settings: OrientConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(import_module("triptych.stages.orient"), "tell_hand", lambda *given: told.extend(given[2].tolist()))
    confused = with_verdicts(predictions, tmp_path / "confused", ["known"] * 18)
    table = read_star(confused / "particles.star")["particles"]
    truth = open_store(predictions.parent / "truth.zarr")
    names = np.array(CLASSES)[truth["label"][:]]
    wrong = np.where(names == CLASSES[0], CLASSES[1], np.where(names == CLASSES[1], CLASSES[0], "none"))
    columns = probability_columns(CLASSES)
    for column, name in zip(columns, CLASSES, strict=True):
        table[column] = np.where(wrong == name, 0.8, np.where(wrong == "none", 0.1, np.where(names == name, 0.15, 0.05)))
    unknown = table["triptychName"][np.flatnonzero(wrong != "none")[0]]
    verdicts = np.where(table["triptychName"] == unknown, "unknown", wrong)
    write_star(confused / "particles.star", {"particles": table.assign(triptychClass=wrong, triptychProbability=0.8, triptychVerdict=verdicts)})
    refined = settings.model_copy(update={"align_by": "both", "rivals": 1, "unknown": True})
    found = read_star(orient(confused, tmp_path / "named", refined) / "particles.star")["particles"]
    assert (found["triptychNetworkClass"] == wrong[wrong != "none"]).all()
    right = found["triptychClass"] == found["triptychTrueClass"]
    assert right.mean() > 0.9
    # the hand is told by these (they come class by class), not by which fits best: that one fits noise better than its mirror image does
    assert told == sorted(CLASSES.index(name) for name in found["triptychNetworkClass"])
    assert (found["rlnClassNumber"] == [CLASSES.index(name) + 1 for name in found["triptychClass"]]).all()
    assert np.allclose(found[columns].sum(axis=1), 1, atol=1e-4)
    own = found[columns].to_numpy()[np.arange(len(found)), found["rlnClassNumber"] - 1]
    assert np.allclose(found["triptychProbability"], own)
    assert (found["triptychVerdict"] == np.where(found["triptychName"] == unknown, "unknown", found["triptychClass"])).all()
    page = (tmp_path / "named/report.html").read_text()
    assert f"{right.sum()} of these fit another structure better" in page
    kept = orient(confused, tmp_path / "kept", refined.model_copy(update={"rivals": 0}))
    assert (read_star(kept / "particles.star")["particles"]["triptychClass"] == wrong[wrong != "none"]).all()


def test_only_likely_rivals_with_a_structure_are_tried() -> None:
    probabilities = np.array([[0.6, 0.25, 0.1, 0.045, 0.005], [0.3, 0.0, 0.1, 0.1, 0.5]])
    there = np.array([True, False, True, True, True])

    def choose(label: list[int] | None = None, **change: object) -> list[list[int]]:
        chosen = choose_trials(probabilities, np.array(label or [0, 4]), there, OrientConfig().model_copy(update=change))
        return [np.flatnonzero(row).tolist() for row in chosen]

    assert choose() == [[0, 2, 3], [0, 2, 3, 4]]
    assert choose(rivals=1) == [[0, 2], [0, 4]]
    assert choose(rival_probability=0.0) == [[0, 2, 3, 4], [0, 2, 3, 4]]
    assert choose(rivals=0) == choose(align_by="recovered") == [[0], [4]]
    assert choose(label=[4, 4], rivals=1) == [[0, 4], [0, 4]]  # what it was called, however unlikely


def test_probabilities_follow_the_fit() -> None:
    before = np.array([[0.5, 0.3, 0.2]] * 4)
    scores = np.array([[0.2, 0.2, np.nan], [0.2, 0.21, np.nan], [-0.1, 0.0, np.nan], [1.0, 0.1, np.nan], [0.3, np.nan, np.nan]])
    after = weigh(np.concatenate([before, before[:1]]), scores, np.array([10_000.0]))
    assert np.allclose(after.sum(axis=1), 1)
    assert np.allclose(after[[0, 2, 4]], before[0])  # equal fits say nothing, nor does one alone
    odds = INDEPENDENT * 10_000 / 2 * (np.log1p(-(0.2**2)) - np.log1p(-(0.21**2)))
    assert np.allclose(np.log(after[1, 1] / after[1, 0]), np.log(0.3 / 0.5) + odds)
    assert np.allclose(after[1, 2] / after[1, 0], 0.2 / 0.5)  # was not tried: as well as the second best
    assert after[3, 0] == pytest.approx(1)
    assert weigh(np.array([[1.0]]), np.array([[0.3]]), np.array([100.0])) == 1  # a model of one class


def test_why_particles_are_left_out(predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    partly = shutil.copytree(predictions, tmp_path / "predictions")
    table = read_star(partly / "particles.star")["particles"]
    assert isinstance(table, pd.DataFrame)
    named = (table["triptychClass"] != "none").to_numpy()
    unknown = named & (np.cumsum(named) % 4 == 0)
    verdicts = np.where(unknown, "unknown", table["triptychClass"])
    write_star(partly / "particles.star", {"particles": table.assign(triptychVerdict=verdicts)})
    command = ["orient", str(partly), str(tmp_path / "poses"), "--set", f"library={settings.library}", "--set", "align_by=recovered"]
    quick = [word for name, value in (("step", 45), ("candidates", 1)) for word in ("--set", f"align.{name}={value}")]
    result = CliRunner().invoke(app, [*command, *quick, "--set", f"classes=[{CLASSES[0]}]", "--set", "tilt_range=[-60, 60]"])
    assert result.exit_code == 0, result.output
    left_out = json.loads((tmp_path / "poses/manifest.json").read_text())["particles"]["left_out"]
    other = named & ~unknown & (table["triptychClass"] != CLASSES[0]).to_numpy()
    expected = [(~named).sum(), unknown.sum(), other.sum()]
    assert list(left_out.values()) == expected
    assert f"{expected[1]} called “unknown” (unknown=true takes them too)" in Page(tmp_path / "poses/report.html").text
    assert f"left out: {expected[0]} called “none”" in " ".join(result.output.split())


def test_averages_that_do_not_agree_are_doubted(caplog: pytest.LogCaptureFixture) -> None:
    empty = Volume(np.zeros((4, 4, 4), np.float32), VOXEL_SIZE)
    averages = [ClassAverage(name, count, 0.2, 0.9, empty, empty, found) for name, count, found in (("a", 10, 41.0), ("b", 9, 90.0), ("c", 50, 30.0))]
    assert find_doubtful(averages, OrientConfig()) == ["a"]
    assert "averages of a agree with their structures to no better than 40 Å" in caplog.text
    assert find_doubtful(averages[1:], OrientConfig()) == []


def test_what_one_search_misses_the_other_finds() -> None:
    rng = np.random.default_rng(3)
    shape = make_shape(0, np.random.default_rng(0))
    reference = draw_balls(shape, SIZE).astype(np.float32)
    turns = Rotation.random(2, rng=rng)
    right = np.stack([draw_balls(turn.apply(shape), SIZE) for turn in turns]).astype(np.float32)
    wrong = draw_balls(Rotation.from_euler("x", 180, degrees=True).apply(turns[0].apply(shape)), SIZE).astype(np.float32)
    noise = rng.normal(0, right.std(), right.shape).astype(np.float32)
    seen = Stacks(np.stack([wrong, right[1]]), right + noise, np.ones((1, SIZE, SIZE, SIZE // 2 + 1), np.float32))
    tried, before = np.array([[True, False]] * 2), np.array([[0.9, 0.1]] * 2)

    def errors(**change: object) -> NDArray[np.float64]:
        config = OrientConfig(align=ALIGN).model_copy(update=change)
        return angular_errors(name_particles(seen, {0: reference}, tried, before, VOXEL_SIZE, config).poses.rotations, turns.as_matrix())

    by_density, both = errors(align_by="recovered"), errors()
    assert by_density[0] > 60
    assert by_density[1] < 5
    assert (both < 10).all()
    # as far as the search by the subtomogram goes astray, the recovered density leads back
    astray = Alignment(np.eye(3)[None].repeat(2, 0), np.zeros((2, 3)), np.array([0.1, 0.4], np.float32))
    found = better(astray, Alignment(turns.as_matrix(), np.ones((2, 3)), np.array([0.2, 0.3], np.float32)))
    assert np.allclose(found.rotations, [turns[0].as_matrix(), np.eye(3)])
    assert found.shifts[:, 0].tolist() == [1, 0]
    assert np.allclose(found.scores, [0.2, 0.4])


def test_every_measured_number_counts_once() -> None:
    size, resolution = 16, 25.0
    config = AlignConfig(resolution=resolution)
    k = np.fft.fftfreq(size, VOXEL_SIZE)
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(k, k, k, indexing="ij")))
    whole = count_measured(np.ones((1, size, size, size // 2 + 1), np.float32), VOXEL_SIZE, config)
    assert whole == ((radius > 0) & (radius <= 1 / resolution)).sum()  # as many real numbers as terms, of which half are the others' conjugates
    wedge = wedge_weights((size,) * 3, -60, 60)
    assert 0.6 < count_measured(wedge[None], VOXEL_SIZE, config)[0] / whole[0] < 0.75


# --------------------------------------------------------------------------------------------------------------- hand


def test_structures_and_mirror_images_tell_the_hand() -> None:
    rng = np.random.default_rng(0)
    turns = np.linspace(0, 1.5 * np.pi, 8)
    helix = np.stack([35 * np.cos(turns), 35 * np.sin(turns), 20 * turns - 45], axis=1)
    volumes = np.stack([draw_balls(turn.apply(helix), 16, 10.0) for turn in Rotation.random(8, rng=rng)]).astype(np.float32)
    volumes += rng.normal(0, 0.3, volumes.shape).astype(np.float32)
    references = {4: draw_balls(helix, 16, 10.0).astype(np.float32)}
    config = ALIGN.model_copy(update={"resolution": 25, "coarse_resolution": 30, "candidates": 4})

    def tell(boxes: NDArray[np.float32]) -> Hand:
        found = tell_hand(boxes, np.ones((1, 16, 16, 9), np.float32), np.full(8, 4), references, VOXEL_SIZE, config)
        assert found is not None
        return found

    right, wrong = tell(volumes), tell(mirror(volumes))
    assert right.verdict == "right: 8 of 8 particles fit their structures better than the mirror images of these"
    assert not right.wrong
    assert wrong.verdict.startswith("probably wrong: only 0 of 8")
    assert wrong.wrong
    assert Hand(8, 5, 1.0).verdict.startswith("not told: 5 of 8")


def test_the_wrong_hand_is_said(
    predictions: Path, settings: OrientConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(import_module("triptych.stages.orient"), "tell_hand", lambda *_: Hand(12, 1, -6.0))
    found = orient(predictions, tmp_path / "poses", settings)
    assert "hand of the tomograms is probably wrong: only 1 of 12" in caplog.text
    assert json.loads((found / "manifest.json").read_text())["hand"]["score"] == -6
    assert "probably wrong" in (found / "report.html").read_text()
    told = describe_file(found)
    assert told.kind == "triptych poses"
    assert any("probably mirrored" in warning for warning in told.warnings)
    caplog.clear()
    unasked = orient(predictions, tmp_path / "unasked", settings.model_copy(update={"hand_check": 0}))
    assert json.loads((unasked / "manifest.json").read_text())["hand"] is None
    assert "hand" not in caplog.text


@pytest.mark.parametrize(("particles", "told"), [(1, False), (2, False), (3, False), (8, False), (12, True), (32, True)])
def test_few_particles_tell_the_hand_only_if_they_are_very_sure(particles: int, told: bool) -> None:
    """Two differences with a mean of four standard errors are nothing: by chance every sixth pair has that."""
    for sign in (-1.0, 1.0):
        hand = Hand(particles, 0, 4.0 * sign)
        assert hand.verdict.startswith("not told") is not told
        assert hand.wrong is (told and sign < 0)


def test_what_looks_like_its_mirror_image_tells_no_hand() -> None:
    ball = draw_balls(np.zeros((1, 3)), 16).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(4, 16, 16, 16)).astype(np.float32)
    wedges = np.ones((1, 16, 16, 9), np.float32)
    assert tell_hand(ball + noise, wedges, np.zeros(4, np.int64), {0: ball}, VOXEL_SIZE, ALIGN) is None


def test_the_surest_of_the_commonest_classes_tell_the_hand() -> None:
    label = np.repeat([3, 5, 7, 8, 9], [10, 8, 6, 2, 1])
    probability = np.arange(len(label)) / len(label)
    chosen = choose_sample(label, probability, 8)
    assert chosen.tolist() == [8, 9, 16, 17, 22, 23, 24, 25]  # two of each, not of the rarest
    assert len(choose_sample(label, probability, 1000)) == 26


# ----------------------------------------------------------------------------------------------- interrupted, divided


class Stop(Exception):
    pass


@pytest.fixture
def in_blocks(predictions: Path, settings: OrientConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an uninterrupted run writes, a few particles at once."""
    monkeypatch.setattr(import_module("triptych.stages.orient"), "BLOCK", 5)
    return orient(predictions, tmp_path / "at_once", settings.model_copy(update={"align_by": "both"}))


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(in_blocks: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"align_by": "both"})
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        if 0 < done < total:
            raise Stop

    with pytest.raises(Stop):
        orient(predictions, tmp_path / "poses", settings, stop)
    assert not (tmp_path / "poses").exists()
    with pytest.raises(InputError, match="another unknown"):
        orient(predictions, tmp_path / "poses", settings.model_copy(update={"unknown": True}))
    orient(predictions, tmp_path / "poses", settings, lambda done, total: seen.append(done))
    assert seen[0] > 0  # a block was finished
    assert hashes(tmp_path / "poses") == hashes(in_blocks)


def test_parts_make_the_whole(in_blocks: Path, predictions: Path, settings: OrientConfig, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"align_by": "both"})
    orient(predictions, tmp_path / "poses", settings, part=(2, 2))
    assert not (tmp_path / "poses").exists()
    orient(predictions, tmp_path / "poses", settings, part=(1, 2))
    assert hashes(tmp_path / "poses") == hashes(in_blocks)
    assert orient(predictions, tmp_path / "poses", settings, part=(2, 2)) == tmp_path / "poses"  # finds it done


def test_processes_make_the_whole(tmp_path: Path, settings: OrientConfig) -> None:
    fake = make_fake(tmp_path / "fake", count=BLOCK + 40, size=16, class_names=CLASSES, snr=(1.0, 2.0))
    quick = {"align": settings.align.model_copy(update={"step": 45, "candidates": 1}), "write_masks": False}
    one, two = (settings.model_copy(update={**quick, "workers": workers}) for workers in (1, 2))
    assert hashes(orient(fake.predictions, tmp_path / "two", two)) == hashes(orient(fake.predictions, tmp_path / "one", one))


def test_command_says_what_it_found(predictions: Path, library: Path, tmp_path: Path) -> None:
    options = [f"library={library}", "align.step=45", "align.candidates=1", "write_densities=false", "tilt_range=[-60, 60]"]
    words = [word for option in options for word in ("--set", option)]
    result = CliRunner().invoke(app, ["orient", str(predictions), str(tmp_path / "poses"), *words])
    assert result.exit_code == 0, result.output
    assert "proteasome_20s" in result.output
    assert not (tmp_path / "poses/densities").exists()
    again = CliRunner().invoke(app, ["orient", str(predictions), str(tmp_path / "poses")])
    assert again.exit_code == 2
    assert "exists" in again.output
