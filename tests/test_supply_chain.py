"""What triptych depends on is bounded and listed, its pages lead somewhere, and nothing calls the network unless it is asked to."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import SIMULATE, TRAIN, set_options

ROOT = Path(__file__).resolve().parents[1]
CONTENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONTENT["project"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "models/README.md", ROOT / "src/triptych/data/models/base/README.md"]
IMPORTED_AS = {"annotated-types": "annotated_types", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
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


def imported(folder: str) -> set[str]:
    """What the modules of a folder import that is neither Python's own nor theirs."""
    paths = list((ROOT / folder).rglob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module is not None}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {path.stem for path in paths} - {"triptych", "figures"}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    declared = {IMPORTED_AS.get(requirement.name, requirement.name) for requirement in requirements()}
    assert imported("src") - {"napari", "pydantic_core"} == declared - {"tensorboard"}  # which Lightning loads; pydantic pins its core
    extras = {Requirement(text).name.replace("-", "_") for text in PROJECT["optional-dependencies"]["dev"]}
    for folder in ("tests", "benchmarks", "scripts"):
        assert imported(folder) - {"dask"} <= declared | extras, folder  # of which distributed is a part


def test_the_source_distribution_holds_what_its_tests_run_and_its_pages_name() -> None:
    included = CONTENT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    assert {folder for folder in ("benchmarks", "scripts", "docs", "src") if re.search(f'"{folder}["/]', tests)} <= set(included)
    beside = {"README.md", "LICENSE", "pyproject.toml"}  # without being asked for
    assert {file.relative_to(ROOT).parts[0] for page in PAGES for file, _ in linked(page)} <= {*included, *beside}


def linked(page: Path) -> list[tuple[Path, str]]:
    """The files that a page links to, with the anchors in them."""
    ways = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    parts = [way.partition("#") for way in ways if "://" not in way]
    return [((page.parent / file).resolve() if file else page, anchor) for file, _, anchor in parts]


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in linked(page):
        assert file.exists(), file
        assert not anchor or anchor in anchors(file), f"{file.name}#{anchor}"


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
