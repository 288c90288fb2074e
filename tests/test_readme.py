"""The commands and Python of the README and of other pages really run, in order and in one folder, on tiny stand-ins for the files they name.

Nothing is replaced inside the commands: the test only appends options that make them small.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
from typer.main import get_command
from typer.testing import CliRunner

from triptych.cli import app
from triptych.config import STAGES, SimulateConfig
from triptych.settings import load_config
from triptych.stages.simulate import simulate

README = Path(__file__).parents[1] / "README.md"
WALK = README.parent / "docs/walkthrough.md"
JUDGING = README.parent / "docs" / "judging.md"
SMALLER = {
    "demo": ["--particles", "6"],
    "simulate": tiny.set_options(tiny.SIMULATE),
    "train": tiny.set_options(tiny.TRAIN),
    "discover": tiny.set_options(tiny.DISCOVER),
    "orient": tiny.set_options(tiny.ORIENT),
}


class Step(NamedTuple):
    language: str
    text: str


def read_steps(page: Path = README) -> list[Step]:
    """Command lines and Python blocks, in the order of the page."""
    steps = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if language == "python":
            steps.append(Step(language, block))
        elif language in ("bash", "console"):
            lines = [line.removeprefix("$ ") for line in block.splitlines()]
            steps += [Step(language, line) for line in lines if line.startswith("triptych ")]
    return steps


def run_command(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words, target = (words[: words.index(">")], Path(words[-1])) if ">" in words else (words, None)
    result = CliRunner().invoke(app, [*words, *SMALLER.get(words[0], [])])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{line} failed") from result.exception
    assert result.exit_code == 0, f"{line} ended with {result.exit_code}: {result.output}"
    if target is not None:
        target.write_text(result.stdout, encoding="utf-8")


def run_steps(page: Path) -> None:
    for step in read_steps(page):
        if step.language == "python":
            Path("script.py").write_text(step.text, encoding="utf-8")
            subprocess.run([sys.executable, "script.py"], check=True)
        else:
            run_command(step.text)


def test_readme_shows_every_command() -> None:
    """Those in prose alone need what a test has not: a window, halves, a network, another run."""
    lines = " ".join(step.text for step in read_steps() if step.language != "python")
    in_prose = {"view", "rerun", "average-halves", "structures average", "structures fetch-classes"}
    pages = "".join(page.read_text(encoding="utf-8") for page in (README, *README.parent.glob("docs/*.md")))
    for command in command_names(get_command(app)):
        where, which = (pages, "documentation") if command in in_prose else (lines, "README")
        assert f"triptych {command}" in where, f"the {which} doesn't show {command}"


def command_names(command: Any) -> list[str]:
    """Those of a command's own commands, with the names of groups before them."""
    parts = getattr(command, "commands", {})
    return [" ".join([name, *rest.split()]) for name, part in parts.items() for rest in command_names(part) or [""]]


def test_readme_names_no_setting_that_does_not_exist() -> None:
    for step in (*read_steps(), *read_steps(WALK)):
        words = shlex.split(step.text, comments=True) if step.language != "python" else []
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        if settings:
            load_config(STAGES[words[1]], None, settings)


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tiny.write_cache(tmp_path / "cache")))
    tiny.write_particles(tmp_path)
    tiny.write_pdb(tmp_path / "complex.pdb", residues=900, radius=45, seed=1)
    tiny.write_pdb(tmp_path / "second.pdb", residues=400, radius=30, seed=2)
    run_steps(README)


def test_judging_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_steps(JUDGING)


def test_the_walk_through_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ribosomes = ["tomograms=2", "specimen.shape=[40, 48, 96]", "specimen.occupancy=[0.15, 0.15]", "classes=[ribosome_70s]", "snr=[1, 1]"]
    plain = ["specimen.cytosol=[0, 0]", "specimen.vesicles=[0, 0]", "specimen.gold_beads=[0, 0]"]
    run_command(shlex.join(["triptych", "simulate-tomograms", "simulated", *(f"--set={text}" for text in (*ribosomes, *plain))]))
    Path("tomograms").mkdir()
    for number, path in enumerate(sorted(Path("simulated/tomograms").glob("*.mrc")), start=1):
        path.rename(f"tomograms/TS_{number:02d}.mrc")
    run_steps(WALK)
    assert "_rlnAngleRot" in Path("ribosomes_relion/particles.star").read_text(encoding="utf-8")


def test_what_is_built_on_triptych_runs(tmp_path: Path) -> None:
    simulate(tmp_path / "few.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
    blocks = [step.text for step in read_steps(README.parent / "docs" / "building.md")]
    check = 'assert triptych.load_model("tuned").card.class_names == store.class_names'
    subprocess.run([sys.executable, "-c", "\n".join([*blocks, check])], cwd=tmp_path, check=True)
    assert (tmp_path / "network.pt2").is_file()
