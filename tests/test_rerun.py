"""A manifest is enough to repeat a run, and what differs is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import DISCOVER, ORIENT, SIMULATE, TRAIN, write_model, write_mrc, write_particles
from typer.testing import CliRunner

import triptych
from triptych.cli import app
from triptych.config import (
    STAGES,
    CalibrateConfig,
    CutConfig,
    DiscoverConfig,
    OrientConfig,
    PickConfig,
    PredictConfig,
    ReportConfig,
    SimulateConfig,
    TomogramConfig,
    TrainConfig,
)
from triptych.errors import InputError
from triptych.io.compare import compare_files, compare_folders
from triptych.io.manifest import write_manifest
from triptych.rerun import RUN, rerun
from triptych.settings import load_config
from triptych.stages.cut import cut
from triptych.stages.pick import pick


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands were given with relative names."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    return tmp_path


class Stop(Exception):
    pass


def all_the_same(made: str) -> bool:
    comparisons = rerun(Path(made), Path(f"{made}.again"))
    assert comparisons
    return all(comparison.is_same for comparison in comparisons)


def test_every_stage_can_be_repeated() -> None:
    assert set(RUN) == set(STAGES)


def test_from_simulation_to_report(project: Path) -> None:
    data = triptych.simulate(Path("data.zarr"), load_config(SimulateConfig, None, SIMULATE))
    assert all_the_same("data.zarr")
    triptych.train(data, Path("trained"), load_config(TrainConfig, None, [*TRAIN, "initial_model=model"]))

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        rerun(Path("trained"), Path("trained.again"), stop)
    assert all_the_same("trained")  # it goes on
    triptych.predict("data.zarr", "predictions", "trained", PredictConfig())
    assert all_the_same("predictions")
    triptych.report(Path("predictions"), Path("report"), data, ReportConfig(gallery=1))
    assert all_the_same("report")
    triptych.orient("predictions", "poses", load_config(OrientConfig, None, ORIENT))
    assert all_the_same("poses")
    triptych.discover("predictions", "discovery", load_config(DiscoverConfig, None, [*DISCOVER[1:], "particles=all"]))
    assert all_the_same("discovery")
    triptych.calibrate("trained", data, "calibrated", CalibrateConfig())
    assert all_the_same("calibrated")


def test_tomograms_picks_and_cut(project: Path) -> None:
    small = ["specimen.shape=[32, 64, 64]", "workers=1"]
    triptych.simulate_tomograms(Path("made"), load_config(TomogramConfig, None, small))
    assert all_the_same("made")
    pick(["made/tomograms"], "picks", "model", PickConfig(tile_size=24, margin=4))
    assert all_the_same("picks")
    cut(["made/tomograms"], "cut.zarr", "made/classes", None, CutConfig(box_size=16, particles_per_tomogram=4, tiles_per_tomogram=2))
    assert all_the_same("cut.zarr")


def test_what_has_changed_is_named(project: Path) -> None:
    star = write_particles(project / "particles")
    triptych.predict("particles/particles.star", "out", "model")
    result = CliRunner().invoke(app, ["rerun", "out/manifest.json"])
    assert result.exit_code == 0, result.output
    assert "9 equal" in result.output
    mask = project / "out/masks/particle_1.mrc"
    write_mrc(mask, np.ones((24, 24, 24)), 12.0)
    (project / "out/densities/particle_2.mrc").unlink()
    result = CliRunner().invoke(app, ["rerun", "out", "other"])
    assert result.exit_code == 1
    assert "different: masks/particle_1.mrc" in result.output
    assert "new: densities/particle_2.mrc" in result.output
    star.write_text(star.read_text() + "\n")
    with pytest.raises(InputError, match=r"have changed or are gone: particles/particles\.star; put back"):
        rerun(Path("out"), Path("third"))
    manifest = json.loads((project / "out/manifest.json").read_text())
    for wrong in ({"arguments": None}, {"arguments": {"evil": "x"}}, {"inputs": 5}, {"inputs": ["x"]}, {"folder": 7}):
        (project / "out/manifest.json").write_text(json.dumps(manifest | wrong))
        with pytest.raises(InputError, match="does not say how to repeat its run"):
            rerun(Path("out"), Path("third"))


def test_a_command_that_is_no_stage_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, "add-class", None, [], None)
    with pytest.raises(InputError, match="written by `triptych add-class`, which cannot be repeated"):
        rerun(tmp_path, tmp_path / "again")


def test_numbers_are_close_or_not(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(4, 4, 4))
    for folder, factor in (("a", 1.0), ("b", 1 + 1e-5), ("c", 1.1)):
        write_mrc(tmp_path / folder / "map.mrc", data * factor, 10.0)
        (tmp_path / folder / "table.star").write_text(f"data_\n_rlnX {0.5 * factor:.7f}\n")
    assert {one.verdict for one in compare_folders(tmp_path / "a", tmp_path / "a")} == {"equal"}
    assert {one.verdict for one in compare_folders(tmp_path / "a", tmp_path / "b")} == {"close"}
    assert {one.verdict for one in compare_folders(tmp_path / "a", tmp_path / "c")} == {"different"}
    for folder, last in (("a", np.inf), ("b", np.inf), ("c", 1.0)):
        np.save(tmp_path / folder / "odd.npy", np.array([1.0, np.nan, -np.inf, last, 2.0 + (folder == "b") * 1e-5]))
    for folder, verdict in (("b", "close"), ("c", "different")):
        assert compare_files("odd.npy", tmp_path / "a/odd.npy", tmp_path / folder / "odd.npy").verdict == verdict
    (tmp_path / "c/map.mrc").write_bytes(b"no map")
    assert "cannot be read" in compare_files("map.mrc", tmp_path / "a/map.mrc", tmp_path / "c/map.mrc").detail
