"""What every test may count on."""

from __future__ import annotations

import os

# One thread each: the tests run side by side, and on small arrays more threads only wait for one another. Set before torch
# is imported, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# In tests, and only there, the shapes and types in the signatures of the numerical modules are checked at every call.
CHECKED = ["triptych.fourier", "triptych.physics", "triptych.losses", "triptych.model"]
install_import_hook(CHECKED, "beartype.beartype")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; without it the test is skipped."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, beside the checkout")
    return SHARED_DATA
