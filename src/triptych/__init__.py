"""triptych: what a cryo-electron subtomogram shows, where it is, and what it looks like.

The names below are loaded when they are first used, so that ``import triptych`` itself costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "CalibrateConfig",
    "CutConfig",
    "DiscoverConfig",
    "InputError",
    "OrientConfig",
    "PickConfig",
    "PredictConfig",
    "ReportConfig",
    "SimulateConfig",
    "TomogramConfig",
    "TrainConfig",
    "Volume",
    "__version__",
    "add_classes",
    "calibrate",
    "cut",
    "discover",
    "judge",
    "load_library",
    "load_model",
    "open_store",
    "orient",
    "pick",
    "predict",
    "read_structure",
    "report",
    "select",
    "simulate",
    "simulate_tomograms",
    "train",
]

_HOME = {
    "CalibrateConfig": "config",
    "CutConfig": "config",
    "DiscoverConfig": "config",
    "InputError": "errors",
    "OrientConfig": "config",
    "PickConfig": "config",
    "PredictConfig": "config",
    "ReportConfig": "config",
    "SimulateConfig": "config",
    "TomogramConfig": "config",
    "TrainConfig": "config",
    "Volume": "volume",
    "add_classes": "add_class",
    "calibrate": "calibrate",
    "cut": "cut",
    "discover": "discover",
    "judge": "report",
    "load_library": "structures",
    "load_model": "model",
    "open_store": "io.store",
    "orient": "orient",
    "pick": "pick",
    "predict": "predict",
    "read_structure": "structures",
    "report": "report",
    "select": "select",
    "simulate": "simulate",
    "simulate_tomograms": "tomograms",
    "train": "train",
}

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from triptych.add_class import add_classes
    from triptych.calibrate import calibrate
    from triptych.config import (
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
    from triptych.cut import cut
    from triptych.discover import discover
    from triptych.errors import InputError
    from triptych.io.store import open_store
    from triptych.model import load_model
    from triptych.orient import orient
    from triptych.pick import pick
    from triptych.predict import predict
    from triptych.report import judge, report
    from triptych.select import select
    from triptych.simulate import simulate
    from triptych.structures import load_library, read_structure
    from triptych.tomograms import simulate_tomograms
    from triptych.volume import Volume


def train(
    data: Path | str, out: Path | str, config: TrainConfig, resume: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Train a network on a dataset store and write a model folder.

    This is the stage of that name, given what simulates fresh data, which one stage must not import from another. Until it is finished,
    checkpoints and logs are kept in the folder ``<out>.training`` beside it.

    Parameters
    ----------
    data : dataset store
    out : model folder to make
    resume : go on from the last checkpoint of a run that was stopped
    on_progress : called with (updates done, updates in all)

    Raises
    ------
    InputError
        If the data cannot train the tasks asked for, `out` exists, or there is a stopped run and no word whether to resume.
    """
    stage = import_module("triptych.train").train
    path: Path = stage(data, out, config, resume, on_progress, import_module("triptych.simulate").simulate_again)
    return path


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    return getattr(import_module(f"triptych.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Python binds every imported submodule to its name in the package. A stage's function has the same name as its
    module, and ``triptych.simulate`` has to be the function, whether or not the module has been imported before."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
