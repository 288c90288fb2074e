"""Every figure that a page shows is the one in the committed result files."""

from __future__ import annotations

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
