"""triptych: what a cryo-electron subtomogram shows, where it is, and what it looks like.

The names below are loaded when they are first used, so that ``import triptych`` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
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
    "add_classes": "stages.add_class",
    "calibrate": "stages.calibrate",
    "cut": "stages.cut",
    "discover": "stages.discover",
    "judge": "stages.report",
    "load_library": "simulation.library",
    "load_model": "recognition.model",
    "open_store": "io.store",
    "orient": "stages.orient",
    "pick": "stages.pick",
    "predict": "stages.predict",
    "read_structure": "simulation.structures",
    "report": "stages.report",
    "select": "stages.select",
    "simulate": "stages.simulate",
    "simulate_tomograms": "stages.simulate_tomograms",
    "train": "stages.train",
}

if TYPE_CHECKING:
    from pathlib import Path

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
    from triptych.errors import InputError
    from triptych.io.store import open_store
    from triptych.parallel import Progress
    from triptych.recognition.model import load_model
    from triptych.simulation.library import load_library
    from triptych.simulation.structures import read_structure
    from triptych.stages.add_class import add_classes
    from triptych.stages.calibrate import calibrate
    from triptych.stages.cut import cut
    from triptych.stages.discover import discover
    from triptych.stages.orient import orient
    from triptych.stages.pick import pick
    from triptych.stages.predict import predict
    from triptych.stages.report import judge, report
    from triptych.stages.select import select
    from triptych.stages.simulate import simulate
    from triptych.stages.simulate_tomograms import simulate_tomograms
    from triptych.volume import Volume


def train(
    data: Path | str, out: Path | str, config: TrainConfig | None = None, resume: bool = False, on_progress: Progress | None = None
) -> Path:
    """Train a network on a dataset store and write a model folder.

    This is the stage of that name, given what simulates fresh data, which one stage must not import from another. Until it is finished,
    checkpoints and logs are kept in the folder ``<out>.training`` beside it.

    Parameters
    ----------
    data : dataset store
    out : model folder to make
    config : settings; default: all defaults
    resume : go on from the last checkpoint of a run that was stopped
    on_progress : called with (updates done, updates in all)

    Raises
    ------
    InputError
        If the data cannot train the tasks asked for, `out` exists, or there is a stopped run and no word whether to resume.
    """
    stage = import_module("triptych.stages.train").train
    path: Path = stage(data, out, config, resume, on_progress, import_module("triptych.stages.simulate").simulate_again)
    return path


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    return getattr(import_module(f"triptych.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

