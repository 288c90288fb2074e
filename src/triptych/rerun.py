"""A manifest -> the same run again in a new folder, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from triptych.calibrate import calibrate
from triptych.config import STAGES, Settings, TrainConfig
from triptych.cut import cut
from triptych.discover import discover
from triptych.errors import InputError, first_line
from triptych.io.compare import Comparison, compare_folders
from triptych.io.manifest import describe_input, hash_file, installed_version, read_manifest
from triptych.model import BUILT_IN_MODEL, WEIGHTS
from triptych.pick import pick
from triptych.predict import predict
from triptych.report import report
from triptych.simulate import simulate, simulate_again
from triptych.tomograms import simulate_tomograms
from triptych.train import train

RUN: dict[str, Callable[..., Path]] = {
    "simulate": simulate,
    "simulate-tomograms": simulate_tomograms,
    "cut": cut,
    "train": partial(train, refresh=simulate_again),
    "calibrate": calibrate,
    "predict": predict,
    "pick": pick,
    "discover": discover,
    "report": report,
}
IDENTITY = ("bytes", "entries", "sha256", "sha256_of_listing")


def rerun(made: Path, out: Path, on_progress: Callable[[int, int], None] | None = None) -> list[Comparison]:
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
    stage, arguments, place = (manifest.get(key) for key in ("stage", "arguments", "folder"))
    if stage not in RUN:
        raise InputError(f"{folder} was written by `triptych {stage}`, which cannot be repeated from a manifest: give that command again")
    if not isinstance(arguments, dict) or not isinstance(place, str):
        raise InputError(f"the manifest of {folder} does not say how to repeat its run: it was written by hand, or by an older version of triptych")
    if not Path(place).is_dir():
        raise InputError(f"the run was started in {place}, which is not there: make that folder, with the inputs in it")
    config = read_settings(stage, manifest)
    out = out.absolute()
    with chdir(place):  # names are repeated as they were given
        check_inputs(manifest)
        RUN[stage](**arguments, out=out, config=config, on_progress=on_progress)
    return compare_folders(folder, out)


def read_settings(stage: str, manifest: Mapping[str, Any]) -> Settings:
    """The settings of a run; a training is repeated in one process."""
    try:
        config = STAGES[stage].model_validate(manifest.get("config"))
    except ValidationError as error:
        made, ours = manifest.get("triptych"), installed_version()
        what = f"version {ours} does not know the settings that version {made} has run with ({first_line(error)})"
        raise InputError(f"{what}: install that version") from None
    return config.model_copy(update={"devices": 1, "nodes": 1}) if isinstance(config, TrainConfig) else config


def check_inputs(manifest: Mapping[str, Any]) -> None:
    """InputError that names the inputs which are not what they were."""
    changed = [about["path"] for about in manifest.get("inputs", []) if not is_unchanged(about)]
    weights = manifest.get("model", {}).get("sha256")
    model = Path(manifest["arguments"].get("model") or BUILT_IN_MODEL)
    if weights is not None and (not (model / WEIGHTS).is_file() or hash_file(model / WEIGHTS) != weights):
        changed.append(str(model / WEIGHTS))
    if changed:
        raise InputError(f"the run cannot be repeated, for these inputs have changed or are gone: {', '.join(changed)}; put back what they were")


def is_unchanged(about: Mapping[str, Any]) -> bool:
    """Whether an input is what a manifest says of it."""
    now = describe_input(about["path"])
    return Path(about["path"]).exists() and all(now.get(key) == about.get(key) for key in IDENTITY)
