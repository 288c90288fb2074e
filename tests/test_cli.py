"""Every command on tiny data, and what the command line says when something is wrong."""

from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
import yaml
from typer.testing import CliRunner

import triptych
from triptych import cli, terminal
from triptych.errors import START_OVER, InputError
from triptych.io.star import write_star
from triptych.settings import format_defaults, stage_settings


def run(*words: str | Path) -> Any:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def fail(*words: str | Path) -> str:
    """The one line that a command with bad input says."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return str(lines[0])


@pytest.fixture
def stub_report(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The report stage replaced by one that does nothing, or what the test puts in its place."""
    module = SimpleNamespace(report=lambda *args, **kwargs: None)
    monkeypatch.setitem(sys.modules, "triptych.stages.report", module)
    return module


# ------------------------------------------------------------------------------------------------------- package and API


def test_importing_triptych_is_light() -> None:
    heavy = ["torch", "lightning", "matplotlib", "gemmi", "scipy", "pandas", "zarr", "pydantic", "numpy"]
    code = f"import sys, triptych, triptych.cli; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == "[]"


def test_api_names_are_functions_whatever_was_imported_before() -> None:
    code = (
        "import triptych, triptych.stages.report, triptych.stages.train\n"
        "assert callable(triptych.report) and callable(triptych.train)\n"
        "from triptych import report, load_library, InputError, Volume\n"
        "assert callable(report)\n"
        "assert 'report' in dir(triptych)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name in triptych.__all__ if name != "__version__"])
def test_every_api_name_can_be_had(name: str) -> None:
    assert callable(getattr(triptych, name))


@pytest.mark.parametrize("name", [name for name in triptych.__all__ if name.islower() and name != "__version__"])
def test_api_functions_take_paths_as_text_and_have_default_settings(name: str) -> None:
    for parameter in inspect.signature(getattr(triptych, name)).parameters.values():
        kind = str(parameter.annotation)
        assert "Path" not in kind or "Path | str" in kind or "Sequence[Path | str]" in kind, parameter
        assert parameter.name != "config" or parameter.default is None, parameter


def test_every_api_name_is_told_of() -> None:
    page = (Path(__file__).parents[1] / "docs" / "building.md").read_text(encoding="utf-8")
    assert [name for name in triptych.__all__ if f"`{name}`" not in page] == []


def test_unknown_api_name() -> None:
    with pytest.raises(AttributeError, match="triptych"):
        triptych.no_such_thing  # noqa: B018


def test_version() -> None:
    assert succeed("--version").strip() == f"triptych {triptych.__version__}"


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("stage", ["simulate", "train", "predict", "report"])
def test_config_prints_what_loads_back(stage: str) -> None:
    text = succeed("config", stage)
    assert text == format_defaults(stage_settings(stage))
    assert yaml.safe_load(text).keys() == stage_settings(stage).model_fields.keys()


def test_config_of_unknown_stage() -> None:
    assert "did you mean 'train'" in fail("config", "trian")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["simulate", "out.zarr", "--set", "particels=3"], "did you mean 'particles'"),
        (["simulate", "out.zarr", "--set", "voxel_size=0"], "voxel_size is 0"),
        (["train", "data.zarr", "out", "--config", "absent.yaml"], "absent.yaml does not exist"),
        (["predict", "x.star", "out", "--set", "contrast=black"], "contrast is 'black'"),
        (["report", "predictions", "out", "--set", "gallery"], "key=value"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    words: Sequence[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in fail(*words)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ errors, stops, warnings


def test_input_error_is_one_line(stub_report: SimpleNamespace) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise InputError("this came,\nthat was expected: do this [bold]now[/bold]")

    stub_report.report = refuse
    assert fail("report", "a", "b") == "error: this came, that was expected: do this [bold]now[/bold]"


def test_other_errors_keep_their_traceback(stub_report: SimpleNamespace) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a fault of ours")

    stub_report.report = crash
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("report", "a", "b")


@pytest.mark.parametrize(
    ("stage", "words", "how"),
    [
        ("report", ["a", "b"], "start over"),
        ("train", ["a", "b"], "--resume"),
        ("simulate", ["a"], "same command again to go on"),
        ("simulate-tomograms", ["a"], "same command again to go on"),
        ("cut", [".", "a"], "same command again to go on"),
        ("demo", [], "--overwrite"),
        ("rerun", ["made"], "same command again to go on"),
    ],
)
def test_ctrl_c_says_how_to_go_on(stage: str, words: list[str], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/manifest.json").write_text('{"stage": "simulate"}')

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    name = "simulate" if stage == "demo" else stage
    names = {name.replace("-", "_"): stop, "count_missing": None, "simulate_again": None}
    home = "triptych.rerun" if name == "rerun" else f"triptych.stages.{name.replace('-', '_')}"
    monkeypatch.setitem(sys.modules, home, SimpleNamespace(**names))
    result = run(stage, *words)
    assert result.exit_code == 130
    assert "stopped by you" in result.stderr
    assert how in result.stderr
    assert "Traceback" not in result.output


def test_ctrl_c_while_the_command_line_is_imported_ends_in_the_same_sentence(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise KeyboardInterrupt\n")
    command = [sys.executable, "-m", "triptych", "info", "a"]
    stopped = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    assert stopped.returncode == 130
    assert stopped.stderr == f"stopped by you: {START_OVER}\n"


def test_ctrl_c_while_the_words_are_parsed_ends_in_the_same_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.TyperGroup, "make_context", stop)
    result = run("info", "a")
    assert (result.exit_code, result.stderr) == (130, f"stopped by you: {START_OVER}\n")


def test_warnings_are_loud_and_details_only_on_request(stub_report: SimpleNamespace, tmp_path: Path) -> None:
    def talk(predictions: Path, out: Path, *args: object, **kwargs: object) -> None:
        logging.getLogger("triptych.stages.report").warning("the data look [inverted]")
        logging.getLogger("triptych.stages.report").info("a detail")
        out.mkdir(exist_ok=True)
        (out / "metrics.json").write_text("{}")

    stub_report.report = talk
    result = run("report", "a", tmp_path / "b")
    assert "warning: the data look [inverted]" in result.stderr
    assert "a detail" not in result.stderr
    assert "info: a detail" in run("--verbose", "report", "a", tmp_path / "b").stderr


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_progress("predict", "particles", "CPU, 1 thread") as on_progress:
        for done in range(1, 101):
            on_progress(done, 100)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("predict on CPU, 1 thread: 100 of 100 particles, ")
    assert "particles/s" in lines[0]


def test_progress_of_a_resumed_run_counts_only_what_it_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 50.0, 100.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.show_progress("train", "updates", "CPU", resumed=True) as on_progress:
        on_progress(1000, 1200)
        on_progress(1200, 1200)
    assert "2.0 updates/s" in capsys.readouterr().err


def test_what_is_counted_anew_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Densities are read a hundred times as fast as particles are aligned."""
    clock = iter([0.0, 10.0, 110.0, 210.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.show_progress("discover", "particle steps", "CPU", resumed=True) as on_progress:
        on_progress(0, 1000)
        on_progress(500, 3000)
        on_progress(900, 3000)
    assert "900 of 3000 particle steps, 4.0 particle steps/s" in capsys.readouterr().err


def test_progress_bar_names_device_count_and_rate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "err", terminal.Console(stderr=True, force_terminal=True, width=150))
    with terminal.show_progress("train", "updates", "a GPU", resumed=True) as on_progress:
        on_progress(1000, 1002)
        on_progress(1001, 1002)
        on_progress(1002, 1002)
    text = capsys.readouterr().err
    assert "train on a GPU" in text
    assert "1002/1002" in text
    assert "updates/s" in text


def test_report_without_truth_prints_no_figures(stub_report: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"particles": 3, "truth": None}))
    text = succeed("report", "a", tmp_path)
    assert "accuracy" not in text
    assert str(tmp_path / "report.html") in text.replace("\n", "")


def test_report_with_truth_prints_the_headline(stub_report: SimpleNamespace, tmp_path: Path) -> None:
    counts = {"particles": 12, "particles_of_known_classes": 10, "particles_not_none": 9}
    metrics = {"truth": "data.zarr", **counts, "accuracy": 0.9, "mean_iou": None, "mean_density_correlation": 0.95}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = succeed("report", "a", tmp_path)
    assert "0.900" in text
    assert "0.950" in text
    assert "IoU" not in text
    assert "fidelity" not in text


@pytest.mark.parametrize(("error", "shown"), [(0.0412, True), (None, False)])
def test_report_with_truth_prints_how_right_the_fidelity_is(stub_report: SimpleNamespace, tmp_path: Path, error: float | None, shown: bool) -> None:
    counts = {"particles": 12, "particles_of_known_classes": 10, "particles_not_none": 9}
    fidelity = {"error": error, "bias": 0.01, "rank_correlation": 0.8}
    (tmp_path / "metrics.json").write_text(json.dumps({"truth": "data.zarr", **counts, "accuracy": 0.9, "fidelity": fidelity}))
    rows = [line for line in succeed("report", "a", tmp_path).splitlines() if "fidelity" in line]
    assert [("0.041" in line, "the 9 that are not background" in line) for line in rows] == ([(True, True)] if shown else [])


def test_classes_and_unknown_particles_are_counted_under_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"triptychClass": ["a[b]", "a[b]", "b"], "triptychProbability": [0.5, 0.7, 0.9], "triptychVerdict": ["unknown", "a", "b"]}
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame(table)})
    terminal.print_classes(tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows == [["a[b]", "2", "0.600", "1"], ["b", "1", "0.900", "0"]]


def test_torch_without_memory_is_told_of_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> None:
        torch.empty(2**62, dtype=torch.uint8)

    monkeypatch.setattr("triptych.stages.simulate_tomograms.simulate_tomograms", allocate)
    assert "more memory than there is" in fail("simulate-tomograms", tmp_path / "out")


def test_impossible_specimens_are_refused_in_a_sentence(tmp_path: Path) -> None:
    asked = {
        "specimen.shape=[1000000,1000000,1000000]": "more memory than there is",
        "voxel_size=100": "fills no voxel",
        "specimen.occupancy=[0.9,0.9]": "of at most 0.5",
    }
    for place, (setting, sentence) in enumerate(asked.items()):
        out = tmp_path / str(place)
        assert sentence in fail("simulate-tomograms", out, "--set", setting)
        assert not out.exists()


# ------------------------------------------------------------------------------------------------------------------ demo


def test_demo_never_touches_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert "other things" in fail("demo", "--output", tmp_path, "--overwrite")
    (tmp_path / cli.DEMO_NOTE).write_text("{}")
    assert "other things" in fail("demo", "--output", tmp_path, "--overwrite")
    assert "is a file" in fail("demo", "--output", tmp_path / "thesis.txt", "--overwrite")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_demo_replaces_an_earlier_one_only_on_request(tmp_path: Path) -> None:
    (tmp_path / cli.DEMO_NOTE).write_text("{}")
    (tmp_path / "data.zarr").mkdir()
    (tmp_path / "data.zarr" / "zarr.json").write_text("{}")
    assert "--overwrite" in fail("demo", "--output", tmp_path)
    assert (tmp_path / "data.zarr" / "zarr.json").exists()
    cli.clear_demo_folder(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- the real commands


def test_structures_list_names_the_built_in_ones() -> None:
    text = succeed("structures", "list")
    for name in ("ribosome_70s", "proteasome_20s", "tric", "groel", "apoferritin", "rubisco"):
        assert name in text
    assert "PDB" in text


def test_help_names_what_a_source_takes() -> None:
    from triptych.simulation.structures import _SPEC_KEYS

    text = " ".join(succeed("structures", "make", "--help").split())
    assert all(key in text for key in _SPEC_KEYS)


def test_structures_fetch_takes_what_was_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tiny.write_cache(tmp_path / "cache")))
    assert "1aon.cif.gz" in succeed("structures", "fetch", "1AON", tmp_path / "entries").replace("\n", "")
    assert "no identifier" in fail("structures", "fetch", "ribosome", tmp_path / "entries")


def test_the_whole_job_on_tiny_data(tmp_path: Path) -> None:
    first = tiny.write_pdb(tmp_path / "first.pdb", residues=900, radius=45, seed=1)
    second = tiny.write_pdb(tmp_path / "second.pdb", residues=400, radius=30, seed=2)
    library, data, model = tmp_path / "library", tmp_path / "data.zarr", tmp_path / "model"
    text = succeed("structures", "make", first, f"other={second}", library)
    assert "first" in text
    assert "other" in text

    succeed("simulate", data, "--set", f"structures={library}", *tiny.set_options(tiny.SIMULATE))
    assert "exists" in fail("simulate", data, "--set", f"structures={library}", *tiny.set_options(tiny.SIMULATE))
    succeed("train", data, model, *tiny.set_options(tiny.TRAIN))

    predictions, report = tmp_path / "predictions", tmp_path / "report"
    assert "probability" in succeed("predict", data, predictions, "--model", model)
    text = succeed("report", predictions, report, "--truth", data)
    assert "accuracy" in text
    assert (report / "report.html").stat().st_size > 1000
    for path in (data, model, predictions / "particles.star", first):
        assert path.name in succeed("info", path).replace("\n", "")


def test_shipped_model_on_a_star_file(tmp_path: Path) -> None:
    star = tiny.write_particles(tmp_path)
    predictions = tmp_path / "predictions"
    succeed("predict", star, predictions)
    assert len(list((predictions / "masks").iterdir())) == 3
    assert "report.html" in succeed("report", predictions, tmp_path / "report").replace("\n", "")


def test_demo_on_few_particles(tmp_path: Path) -> None:
    text = succeed("demo", "--output", tmp_path / "demo", "--particles", "8", "--seed", "1")
    assert "seed 1" in text
    assert "accuracy" in text
    assert (tmp_path / "demo" / "report" / "report.html").is_file()
