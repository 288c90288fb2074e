"""What triptych depends on is bounded and listed, and nothing calls the network unless it is asked to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import SIMULATE, TRAIN, set_options

ROOT = Path(__file__).resolve().parents[1]
CONTENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONTENT["project"]
UNBOUNDED = {"pillow", "rich", "distributed", "tensorboard"}
"""Their major versions are those of the calendar, or hardly concern what we call."""
WATCHED = """
import json, sys

calls = []

def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        calls.append([event, str(arguments[1:] if event == "socket.connect" else arguments[0])])
        raise OSError("the network is not to be used")

sys.addaudithook(watch)
from typer.testing import CliRunner
from triptych.cli import app
results = [CliRunner().invoke(app, command) for command in json.loads(sys.argv[1])]
print(json.dumps({"codes": [result.exit_code for result in results], "calls": calls, "texts": [result.output[-500:] for result in results]}))
"""


def requirements() -> list[Requirement]:
    """What users need: not what only developers do."""
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras["dask"], *extras["tensorboard"]]]


def test_dependencies_have_upper_bounds() -> None:
    unbounded = {requirement.name for requirement in requirements() if not any(one.operator in ("<", "<=", "==") for one in requirement.specifier)}
    assert unbounded == UNBOUNDED


def test_every_dependency_has_its_licence_listed() -> None:
    listed = set(re.findall(r"^\| ([a-z0-9.-]+) \|", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE))
    assert {canonicalize_name(requirement.name) for requirement in requirements()} <= listed


def test_the_source_distribution_holds_what_its_tests_run() -> None:
    included = CONTENT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    assert {folder for folder in ("benchmarks", "scripts", "docs", "src") if re.search(f'"{folder}["/]', tests)} <= set(included)


def test_no_command_but_fetch_calls_the_network(tmp_path: Path) -> None:
    def path(name: str) -> str:
        return str(tmp_path / name)

    small = ["--set", "specimen.shape=[32, 64, 64]", "--set", "workers=1"]
    commands = [
        ["structures", "list"],
        ["simulate", path("data.zarr"), *set_options(SIMULATE)],
        ["simulate-tomograms", path("tomograms"), *small],
        ["train", path("data.zarr"), path("model"), *set_options(TRAIN)],
        ["predict", path("data.zarr"), path("predictions"), "--model", path("model")],
        ["report", path("predictions"), path("report"), "--truth", path("data.zarr")],
        ["pick", path("tomograms/tomograms"), path("picks"), "--model", path("model"), "--set", "tile_size=32"],
        ["info", path("model")],
        ["structures", "fetch", "4V5D", path("fetched")],
        ["structures", "fetch-classes", path("library")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands)],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "", "OMP_NUM_THREADS": "1", "TRIPTYCH_CACHE": path("cache"), "HOME": path("home"), "PYTHONPATH": ":".join(sys.path)},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["codes"] == [0] * 8 + [2, 2], found["texts"]
    assert len(found["calls"]) == 2  # those of fetch: the watch would have seen others
    assert all("files.rcsb.org" in call[1] for call in found["calls"])
