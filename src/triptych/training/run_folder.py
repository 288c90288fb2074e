"""The folder in which a training run works until its model is whole: settings, checkpoints and logs, with which a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from triptych.config import TrainConfig
from triptych.errors import InputError
from triptych.io.manifest import describe_input
from triptych.io.outputs import output_folder
from triptych.workspace import differing


def prepare_run(run: Path, data: Path, config: TrainConfig, resume: bool) -> str | None:
    """Make the folder of the run, or check that a stopped run can go on; return its last checkpoint."""
    about = describe_input(data)
    settings = {"data": {"path": str(data.resolve()), "listing": about["sha256_of_listing"]}, "config": config.decisive()}
    if not run.exists():
        with output_folder(run) as part:
            (part / "run.json").write_text(json.dumps(settings, indent=2))
        return None
    if not resume:
        raise InputError(f"{run} holds a training run that was stopped: add --resume to go on with it, or remove that folder to start anew")
    found = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    if found != settings:
        names = ", another ".join(differing(found, settings))
        raise InputError(f"the run in {run} was started with another {names}: resume it with the same, or remove that folder to start anew")
    return last_checkpoint(run)


def last_checkpoint(run: Path) -> str | None:
    last = run / "checkpoints" / "last.ckpt"
    return str(last) if last.is_file() else None


def end_no_earlier(config: TrainConfig, run: Path) -> TrainConfig:
    """The settings of a run that goes on: it cannot end before its last checkpoint."""
    checkpoint = last_checkpoint(run)
    if config.stop_after is None or checkpoint is None:
        return config
    done = int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return config.model_copy(update={"stop_after": max(config.stop_after, done)})


def join_logs(folder: Path) -> str:
    """The logs of a run and of its resumptions as one table (CSV): what an undisturbed run would have logged, in the order of the updates."""
    parts = sorted(folder.glob("from_*/metrics.csv"))
    table = pd.concat([pd.read_csv(part) for part in parts if part.stat().st_size], ignore_index=True)
    validation = table.filter(like="validation_").notna().any(axis=1)
    table = table.assign(validation=validation).drop_duplicates(subset=["step", "validation"], keep="last").sort_values(["step", "validation"])
    return str(table.drop(columns="validation")[sorted(set(table) - {"validation"})].to_csv(index=False))
