"""What every test may count on."""

from __future__ import annotations

import os

# One thread each: the tests run side by side, and on small arrays more threads only wait for one another. Set before torch
# is imported, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from hypothesis import settings

# In tests, and only there, the types of the numerical modules' arguments and results (those of arrays too) are checked at every
# call. An int is a float, as it is for mypy. (Not where there are named tuples: beartype cannot read theirs.)
CHECKED = ("triptych.fourier", "triptych.posing", "triptych.simulation.physics")
beartype_packages(CHECKED, conf=BeartypeConf(is_pep484_tower=True))

# A time limit per example says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, derandomize=True)
settings.load_profile("any machine")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; without it the test is skipped."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, beside the checkout")
    return SHARED_DATA
