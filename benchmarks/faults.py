"""Every stage killed at random, and what else goes wrong on a cluster: does the same command end with the same result?

    python benchmarks/faults.py WORK [--kills 20] [--stages simulate ...] [--seed 0] [--results FOLDER]

A kill is SIGKILL to the process of a stage, at a moment drawn uniformly from the time that an undisturbed run takes; then the same command is given
again (for train: with --resume, as the first time). Compared are the bytes of every file, but for times in manifests. A
finished item (a tomogram, a row of tiles) is lost if the second run does it again. The faults are a full disk (a small tmpfs where it may be
mounted, else a limit on the size of files), a read-only output, an input that disappears, and a worker process that is killed: each has to
end with one sentence, and the same command afterwards with the same result. Stages run in forks of this process, so that torch is imported
once. Writes faults.json, and leaves what it holds of other stages; ends with 1 where a result differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import FOLDER, write_result

import triptych
from triptych.config import (
    NONE_CLASS,
    AlignConfig,
    CutConfig,
    DiscoverConfig,
    NetworkConfig,
    OrientConfig,
    PickConfig,
    PredictConfig,
    SimulateConfig,
    SpecimenConfig,
    TomogramConfig,
    TrainConfig,
)
from triptych.errors import InputError
from triptych.io.outputs import partial_name
from triptych.recognition.model import Model, ModelCard
from triptych.recognition.network import Network
from triptych.simulation.library import load_library
from triptych.stages import orient as orient_stage
from triptych.stages.cut import cut
from triptych.stages.discover import discover
from triptych.stages.orient import orient
from triptych.stages.pick import pick
from triptych.stages.predict import BLOCK, predict
from triptych.stages.simulate import class_names, simulate
from triptych.stages.simulate_tomograms import simulate_tomograms
from triptych.stages.train import train  # noqa: F401 (imported once, here, and not in every fork)
from triptych.workspace import Workspace

FORK = multiprocessing.get_context("fork")
TINY = SpecimenConfig(shape=(32, 64, 64))
CLASSES = ("apoferritin", "ribosome_70s")
TIMES = ("created", "seconds", "particles_per_second", "seconds_of_last_run", "command")
"""What of a manifest differs between runs."""
PATIENCE = 3
"""Times the undisturbed run after which a run counts as hanging."""
Progress = Callable[[int, int], None]
Run = Callable[[Path, Progress], object]


@dataclass(frozen=True)
class Stage:
    """A stage with its tiny job: what runs it, given the output and whom to tell; and a folder of its inputs."""

    run: Run
    inputs: Path | None = None


# ------------------------------------------------------------------------------------------------------------- the jobs


def simulate_subtomograms(workers: int, out: Path, on_progress: Progress) -> None:
    config = SimulateConfig(particles=16, particles_per_tomogram=2, box_size=16, max_shift=10, specimen=TINY, classes=CLASSES, workers=workers)
    simulate(out, config, on_progress)


def simulate_whole(out: Path, on_progress: Progress) -> None:
    simulate_tomograms(out, TomogramConfig(tomograms=6, specimen=TINY, classes=CLASSES, workers=1, device="cpu"), on_progress)


def train_tiny(data: Path, loader_workers: int, out: Path, on_progress: Progress) -> None:
    config = TrainConfig(
        updates=24,
        batch_size=4,
        tiles_per_batch=2,
        updates_per_checkpoint=3,
        validation_particles=4,
        network=NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8),
        loader_workers=loader_workers,
        cache=loader_workers == 0,
        device="cpu",
    )
    triptych.train(data, out, config, resume=True, on_progress=on_progress)


def predict_tiny(data: Path, model: Path, out: Path, on_progress: Progress) -> None:
    predict(data, out, model, PredictConfig(batch_size=2, device="cpu"), on_progress)


def pick_tiny(tomograms: Path, model: Path, out: Path, on_progress: Progress) -> None:
    config = PickConfig(tile_size=16, margin=8, threshold=0.3, min_score=0, device="cpu")
    pick([tomograms], out, model, config, on_progress)


def cut_tiny(tomograms: Path, labels: Path, out: Path, on_progress: Progress) -> None:
    config = CutConfig(box_size=16, particles_per_tomogram=4, tiles_per_tomogram=2, max_shift=10, contrast="dark")
    cut([tomograms], out, labels=labels, config=config, on_progress=on_progress)


def discover_tiny(predictions: Path, out: Path, on_progress: Progress) -> None:
    quick = AlignConfig(step=45, starts=1, rounds=2, candidates=1, resolution=40, coarse_resolution=50, max_shift=20, device="cpu")
    config = DiscoverConfig(classes=(*CLASSES, NONE_CLASS), one_group=True, align=quick, layout="pca")
    told = (0, -1)

    def tell_steps(done: int, total: int) -> None:
        """That the shapes and the groups are found, and the ends of the two halves and of the group: what is told within a half is no step."""
        nonlocal told
        if (total, done) > told and done in (0, total // 4, total // 2, total):
            told = total, done
            on_progress(done, total)

    discover(predictions, out, config, tell_steps)


def orient_tiny(predictions: Path, out: Path, on_progress: Progress) -> None:
    orient_stage.BLOCK = 8  # in this process: so that a tiny job has several blocks
    quick = AlignConfig(step=45, candidates=1, resolution=40, coarse_resolution=50, max_shift=20, device="cpu")
    orient(predictions, out, OrientConfig(unknown=True, align=quick), on_progress)


def say_nothing(done: int, total: int) -> None:
    pass


def make_inputs(folder: Path, stages: set[str]) -> None:
    """What the stages need of a dataset, tomograms with labels, and a model that has learned nothing; made once."""
    # predict finishes many particles at once, so that it needs more of them
    for name, users, particles in (("data.zarr", {"train", "orient", "discover"}, 48), ("many.zarr", {"predict"}, 4 * BLOCK)):
        if users & stages and not (folder / name).exists():
            tiny: dict[str, Any] = {"particles_per_tomogram": 8, "box_size": 16, "max_shift": 10, "specimen": TINY, "classes": CLASSES, "workers": 1}
            simulate(folder / name, SimulateConfig(particles=particles, **tiny))
    if {"pick", "cut"} & stages and not (folder / "tomograms").exists():
        simulate_whole(folder / "tomograms", say_nothing)
    if {"predict", "pick", "orient", "discover"} & stages and not (folder / "model").exists():
        torch.manual_seed(0)
        network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
        names = class_names([item for item in load_library() if item.name in CLASSES])
        card = ModelCard(network, names, 10.0, 16, "bright", label_names=names[:-1])
        untrained = Network(network, len(names), len(names) - 1)
        last = untrained.classify[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.data[names.index(NONE_CLASS)] -= 10  # or it calls everything "none", which has no pose
        Model(untrained, card, "cpu", "float32").save(folder / "model", TrainConfig(), [])
    if {"orient", "discover"} & stages and not (folder / "predictions").exists():
        predict_tiny(folder / "data.zarr", folder / "model", folder / "predictions", say_nothing)


def make_stages(inputs: Path) -> dict[str, Stage]:
    data, many, model, predictions = (inputs / name for name in ("data.zarr", "many.zarr", "model", "predictions"))
    tomograms, labels = (inputs / "tomograms" / name for name in ("tomograms", "classes"))
    return {
        "simulate": Stage(partial(simulate_subtomograms, 1)),
        "simulate-tomograms": Stage(simulate_whole),
        "train": Stage(partial(train_tiny, data, 0), data),
        "predict": Stage(partial(predict_tiny, many, model), many),
        "pick": Stage(partial(pick_tiny, tomograms, model), tomograms),
        "cut": Stage(partial(cut_tiny, tomograms, labels), tomograms),
        "orient": Stage(partial(orient_tiny, predictions), predictions),
        "discover": Stage(partial(discover_tiny, predictions), predictions),
    }


# -------------------------------------------------------------------------------------------------------- runs and kills


@dataclass
class Outcome:
    """How a run ended: "finished", "refused" (InputError), "killed", "hang", or the name of another exception."""

    how: str
    text: str = ""
    seconds: float = 0.0
    progress: list[tuple[int, int]] = field(default_factory=list)
    """(done, in all), as the stage told it."""


def in_child(run: Callable[[Progress], object], tell: Any) -> None:
    """Run, and tell the parent what happens."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        run(lambda done, total: tell.send(("progress", (done, total))))
        tell.send(("finished", ""))
    except InputError as error:
        tell.send(("refused", str(error)))
    except BaseException as error:  # noqa: BLE001 (to be reported)
        tell.send((type(error).__name__, str(error)[:300]))


def watch(run: Callable[[Progress], object], kill_after: float | None = None, limit: float = 120.0) -> Outcome:
    """Run in a child, perhaps killing it; what it said."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=in_child, args=(run, theirs))
    started = time.monotonic()
    child.start()
    theirs.close()
    outcome = Outcome("killed")
    deadline = started + (limit if kill_after is None else kill_after)
    with contextlib.suppress(EOFError):
        while (left := deadline - time.monotonic()) > 0 and ours.poll(left):
            kind, what = ours.recv()
            if kind == "progress":
                outcome.progress.append(what)
            else:
                outcome.how, outcome.text = kind, what
    if outcome.how == "killed" and child.is_alive():
        os.kill(child.pid or 0, signal.SIGKILL)
        outcome.how = "killed" if kill_after is not None else "hang"
    child.join()
    outcome.seconds = time.monotonic() - started
    return outcome


def content(folder: Path) -> dict[str, Any]:
    """Every file of a result by its name, without what must differ."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        found[name] = without_times(json.loads(file.read_text())) if name == "manifest.json" else file.read_bytes()
    return found


def without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_times(value) for key, value in tree.items() if key not in TIMES}
    return [without_times(item) for item in tree] if isinstance(tree, list) else tree


def remove(out: Path) -> None:
    for path in (out, partial_name(out), out.with_name(f"{out.name}.training")):
        shutil.rmtree(path, ignore_errors=True)


def finished_items(out: Path) -> int:
    """What the files of a stopped run say that it has finished; 0 where it keeps nothing."""
    return len(Workspace(out).done()) if (partial_name(out) / "done").is_dir() else 0


def same_files(expected: dict[str, Any], out: Path) -> list[str]:
    """Names of files that are missing, or others."""
    found = content(out) if out.is_dir() else {}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def kill_stage(stage: Stage, out: Path, kills: int, rng: np.random.Generator) -> dict[str, float]:
    """Kill a stage so many times, each in a run of its own, and start it again."""
    remove(out)
    undisturbed = watch(partial(stage.run, out))
    if undisturbed.how != "finished":
        raise SystemExit(f"the undisturbed run ended so: {undisturbed}")
    expected, total = content(out), undisturbed.progress[-1][1]
    steps = len(undisturbed.progress) - 1
    figures = {"kills": 0, "matched": 0, "kept_something": 0, "items_lost": 0, "steps": steps, "steps_done_again": 0}
    while figures["kills"] < kills:
        remove(out)
        killed = watch(partial(stage.run, out), kill_after=float(rng.uniform(0, undisturbed.seconds)))
        if killed.how != "killed" or out.exists():
            continue  # it was faster this time
        before = finished_items(out)
        again = watch(partial(stage.run, out))
        began = again.progress[0][0] if again.progress else total
        differing = same_files(expected, out)
        figures["kills"] += 1
        figures["matched"] += again.how == "finished" and not differing
        figures["kept_something"] += began > 0
        done_before, done_after = (max(0, len(outcome.progress) - 1) for outcome in (killed, again))
        figures["items_lost"] += max(0, before + done_after - steps)
        figures["steps_done_again"] += max(0, done_before + done_after - steps)
        if again.how != "finished" or differing:
            print(f"{out.name}: {again.how} {again.text} {differing[:5]}", flush=True)
    return {**figures, "seconds": round(undisturbed.seconds, 2)}


# ---------------------------------------------------------------------------------------------------------------- faults


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes; False where it may not be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def with_small_files(run: Callable[[Progress], object], size: int, on_progress: Progress) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run(on_progress)


def fill_disk(stage: Stage, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Too little room for the result, then enough."""
    size = sum(len(data) for data in expected.values() if isinstance(data, bytes))
    with small_disk(folder, max(size // 3, 1 << 14)) as mounted:
        out = folder / "out"
        remove(out)
        if not mounted:
            largest = max(len(data) for data in expected.values() if isinstance(data, bytes))
            return judge(watch(partial(with_small_files, partial(stage.run, out), largest // 2)), stage, out, expected)
        full = watch(partial(stage.run, out))
        subprocess.run(["mount", "-o", f"remount,size={10 * size + (64 << 20)}", str(folder)], check=True)
        return judge(full, stage, out, expected)


def write_protected(stage: Stage, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """An output on a file system that is mounted read-only, then not."""
    with small_disk(folder, 256 << 20) as mounted:
        if not mounted:
            return {"sentence": None, "matched": None, "text": "not tried: mounting needs rights"}
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        refused = watch(partial(stage.run, folder / "out"))
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        return judge(refused, stage, folder / "out", expected)


def lose_input(stage: Stage, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The input is renamed when a third of the work is done, then put back."""
    assert stage.inputs is not None
    hidden, out = stage.inputs.with_name(f"{stage.inputs.name}.hidden"), folder / "out"
    remove(out)

    def run(on_progress: Progress) -> object:
        def hide(done: int, total: int) -> None:
            on_progress(done, total)
            if 3 * done >= total and stage.inputs is not None and stage.inputs.exists():
                stage.inputs.rename(hidden)

        return stage.run(out, hide)

    try:
        lost = watch(run)
    finally:
        if hidden.exists():
            hidden.rename(stage.inputs)
    return judge(lost, stage, out, expected)


def kill_worker(run: Run, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """SIGKILL to one of the stage's own processes once some work is done."""
    out = folder / "out"
    remove(out)

    def disturbed(on_progress: Progress) -> object:
        def shoot(done: int, total: int) -> None:
            on_progress(done, total)
            victims = multiprocessing.active_children()
            if 0 < done < total and victims:
                os.kill(victims[0].pid or 0, signal.SIGKILL)

        return run(out, shoot)

    return judge(watch(disturbed), Stage(run), out, expected)


def judge(outcome: Outcome, stage: Stage, out: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Whether a fault ended in a sentence, or did no harm; and whether the same command then gives the same result."""
    ended = outcome.how
    again = watch(partial(stage.run, out)) if ended != "finished" else outcome
    differing = same_files(expected, out)
    if ended not in ("refused", "finished") or differing:
        print(f"{out}: {ended} {outcome.text}; again: {again.how} {again.text} {differing[:5]}", flush=True)
    matched = again.how == "finished" and not differing
    text = outcome.text.replace(str(out.parents[1]), "...")
    return {"ended": ended, "sentence": ended in ("refused", "finished"), "matched": matched, "text": text}


def try_faults(name: str, stage: Stage, folder: Path, expected: dict[str, Any], inputs: Path) -> dict[str, Any]:
    found = {"full_disk": fill_disk(stage, folder, expected), "read_only": write_protected(stage, folder, expected)}
    if stage.inputs is not None:
        found["lost_input"] = lose_input(stage, folder, expected)
    parallel: dict[str, Run] = {"simulate": partial(simulate_subtomograms, 2), "train": partial(train_tiny, inputs / "data.zarr", 1)}
    if name in parallel:
        remove(folder / "out")
        watch(partial(parallel[name], folder / "out"))
        found["dead_worker"] = kill_worker(parallel[name], folder, content(folder / "out"))
    remove(folder / "out")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stages", nargs="+", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    inputs, work = given.work.absolute() / "inputs", given.work.absolute()
    stages = {name: stage for name, stage in make_stages(inputs).items() if given.stages is None or name in given.stages}
    maker = FORK.Process(target=make_inputs, args=(inputs, set(stages)))  # in a child: Zarr's threads do not survive a fork
    maker.start()
    maker.join()
    kills, faults = {}, {}
    for name, stage in stages.items():
        out = work / "kills" / name  # as deep as the faults' outputs, for tables hold relative paths
        kills[name] = kill_stage(stage, out, given.kills, np.random.default_rng([given.seed, *name.encode()]))
        print(name, kills[name], flush=True)
        faults[name] = try_faults(name, stage, work / "fault", content(out), inputs)
        print(name, faults[name], flush=True)
    path = given.results / "faults.json"
    before = json.loads(path.read_text()) if path.exists() else {"stages": {}, "faults": {}}
    found = {"stages": before["stages"] | kills, "faults": before["faults"] | faults}  # stages that were not run are left
    ordered = {kind: {name: part[name] for name in make_stages(inputs) if name in part} for kind, part in found.items()}
    write_result("faults", given.seed, ordered, folder=given.results)
    wrong = [name for name, figures in kills.items() if figures["matched"] < figures["kills"] or figures["items_lost"]]
    wrong += [name for name, found in faults.items() for fault in found.values() if fault["sentence"] is False or fault["matched"] is False]
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
