"""A manifest -> the same run again in a new folder, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import chdir
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from triptych.config import STAGES, Settings, TrainConfig
from triptych.errors import InputError
from triptych.io.compare import Comparison, compare_folders
from triptych.io.manifest import describe_input, hash_file, installed_version, manifest_entry, read_manifest
from triptych.io.output_names import WEIGHTS
from triptych.parallel import Progress
from triptych.settings import check_settings
from triptych.stages.calibrate import calibrate
from triptych.stages.cut import cut
from triptych.stages.discover import discover
from triptych.stages.orient import orient
from triptych.stages.pick import pick
from triptych.stages.predict import predict
from triptych.stages.report import report
from triptych.stages.simulate import simulate, simulate_again
from triptych.stages.simulate_tomograms import simulate_tomograms
from triptych.stages.train import train

RUN: dict[str, Callable[..., Path]] = {
    "simulate": simulate,
    "simulate-tomograms": simulate_tomograms,
    "cut": cut,
    "train": partial(train, refresh=simulate_again, resume=True),  # so that the same rerun goes on after an interruption
    "calibrate": calibrate,
    "predict": predict,
    "pick": pick,
    "orient": orient,
    "discover": discover,
    "report": report,
}
IDENTITY = ("bytes", "entries", "sha256", "sha256_of_listing")


class RecordedInput(BaseModel, extra="allow"):
    """An input by its path, and by what it is recognised by."""

    path: str


class Recorded(BaseModel):
    """What a manifest says of how its run was started."""

    stage: str
    folder: str
    arguments: dict[str, str | list[str] | None]
    inputs: list[RecordedInput] = []


def rerun(made: Path, out: Path, on_progress: Progress | None = None) -> list[Comparison]:
    """Repeat what has made a folder, with the same settings and inputs, and compare what comes out.

    Parameters
    ----------
    made : a folder that a stage wrote, or its manifest.json
    out : folder to make
    on_progress : as the stage has it

    Raises
    ------
    InputError
        If an input is no longer what it was, or the manifest does not say how to repeat the run.
    """
    folder = (made.parent if made.is_file() else made).absolute()
    manifest = read_manifest(folder)
    run = read_run(manifest, folder)
    if not Path(run.folder).is_dir():
        raise InputError(f"the run was started in {run.folder}, which is not there: make that folder, with the inputs in it")
    config = read_settings(run.stage, manifest)
    out = out.absolute()
    with chdir(run.folder):  # names are repeated as they were given
        check_inputs(run, *(manifest_entry(manifest, "model", key) for key in ("path", "sha256")))
        RUN[run.stage](**run.arguments, out=out, config=config, on_progress=on_progress)
    return compare_folders(folder, out)


def read_run(manifest: dict[str, Any], folder: Path) -> Recorded:
    """What has to be known to repeat a run."""
    if str(manifest["stage"]) not in RUN:
        raise InputError(f"{folder} was written by `triptych {manifest['stage']}`, which cannot be repeated from a manifest: give that command again")
    try:
        run = Recorded.model_validate(manifest)
        signature(RUN[run.stage]).bind(**run.arguments, out=None, config=None, on_progress=None)
    except (ValidationError, TypeError):
        how = "it was written by hand, or by an older version of triptych"
        raise InputError(f"the manifest of {folder} does not say how to repeat its run: {how}") from None
    return run


def read_settings(stage: str, manifest: Mapping[str, Any]) -> Settings:
    """The settings of a run; a training is repeated in one process."""
    try:
        config = check_settings(STAGES[stage], manifest.get("config"))
    except InputError as error:
        made, ours = manifest.get("triptych"), installed_version()
        what = f"version {ours} cannot repeat with the settings of the manifest, which version {made} wrote ({error})"
        raise InputError(f"{what}: install that version, or put back the manifest that it wrote") from None
    return config.model_copy(update={"devices": 1, "nodes": 1}) if isinstance(config, TrainConfig) else config


def check_inputs(run: Recorded, found: object, sha256: object) -> None:
    """InputError that names the inputs which are not what they were.

    `found` is where the model was, for a stage that is not given one but finds it, and `sha256` the hash of its weights; None where there was none.
    """
    changed = [about.path for about in run.inputs if not is_unchanged(about)]
    model = run.arguments.get("model") or found
    weights = Path(str(model), WEIGHTS)
    if model and sha256 and not (weights.is_file() and hash_file(weights) == sha256):
        changed.append(str(weights))
    if changed:
        raise InputError(f"the run cannot be repeated, for these inputs have changed or are gone: {', '.join(changed)}; put back what they were")


def is_unchanged(about: RecordedInput) -> bool:
    """Whether an input is what a manifest says of it."""
    now = describe_input(about.path)
    return Path(about.path).exists() and all(now.get(key) == (about.model_extra or {}).get(key) for key in IDENTITY)
