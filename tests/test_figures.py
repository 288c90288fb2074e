"""Every figure that a page shows is the one in the committed result files, and every module that the design names is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_pages_show_the_committed_figures() -> None:
    result = subprocess.run([sys.executable, "scripts/update_figures.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("<!-- figures: ") >= 3
    assert "TO BE FILLED" not in readme


def test_the_design_names_every_module() -> None:
    """But those of io, each of which is a file format or what belongs to one."""
    rows = re.findall(r"^\|[^|]*\| (`[^|]*`) \|", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.MULTILINE)
    modules = [path.stem for path in (ROOT / "src/triptych").rglob("*.py") if path.parent.name != "io" and not path.stem.startswith("__")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(modules)


def run_benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False)


def test_what_has_a_result_file_is_not_run_again_and_says_so(tmp_path: Path) -> None:
    result = run_benchmark("multitask.py", str(tmp_path / "work"), "--seeds", "0", "--cells", "all")
    assert result.returncode == 0, result.stderr
    assert "all_0.json exists already: give --results FOLDER" in result.stdout
    assert not list((tmp_path / "work").iterdir())  # nothing was simulated for it


def test_figures_of_another_seed_are_not_taken_for_those_asked_for(tmp_path: Path) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "shipped_model.json", tmp_path)
    result = run_benchmark("shipped_model.py", "--seed", "7", "--results", str(tmp_path))
    assert "with another seed: give --results FOLDER" in result.stderr
    assert result.returncode == 1


def test_results_name_the_commit(tmp_path: Path) -> None:
    write = "import sys, pathlib, results; results.write_result('some', 0, {}, folder=pathlib.Path(sys.argv[1]))"
    assert run_benchmark("-c", write, str(tmp_path)).returncode == 0
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    named = json.loads((tmp_path / "some.json").read_text())["commit"]
    assert (named or "").removesuffix("-dirty") == git.stdout.strip()  # nothing outside of a clone
