"""Another group's labelled tomograms: trained on five of them, tested on two.

    python benchmarks/labelled.py WORK [--updates 600] [--initial FOLDER | --scratch] [--tiles 16] [--turned-share 0] [--seed 0] [--name labelled]
                                   [--picture docs/images/labelled.png]

The tomograms (../shared/data/tomograms_labelled) do not say their voxel size: they are taken as they are, and called 10 Å. The network
goes on from the shipped model, from another one, or with --scratch from nothing. What is kept in WORK is not made again, and a training
that was stopped goes on. One of the five tomograms, which the seed chooses, is held out. Writes benchmarks/results/NAME.json: Dice of
every class of the label map of `triptych pick`, and how many of the objects are found, and found as what they are; and the same of the label map
of `triptych orient`, which puts the shapes that the masks of the five tomograms average to into what was picked.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from picking import dice, label_map, match
from results import FOLDER, write_result

from triptych.config import AugmentConfig, CutConfig, LossConfig, NetworkConfig, OrientConfig, PickConfig, PredictConfig, TrainConfig
from triptych.io.mrc import read_mrc
from triptych.io.relion_particles import particles_from_relion
from triptych.parallel import keep_freed_memory
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.stages.average_masks import average_masks
from triptych.stages.cut import cut
from triptych.stages.orient import orient
from triptych.stages.pick import pick
from triptych.stages.predict import predict
from triptych.stages.train import train

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tomograms_labelled"
VOXEL_SIZE = 10.0
TRAINING, TEST = (1, 2, 3, 4, 5), (6, 7)
REACH = 5 * VOXEL_SIZE
"""Å: so near to an object's centre a pick has found it."""
SEED = 0


def unpack(work: Path) -> Path:
    """The tomograms as uncompressed files, in a folder of their own."""
    folder = work / "tomograms"
    folder.mkdir(parents=True, exist_ok=True)
    for number in (*TRAINING, *TEST):
        path = folder / f"tomo{number:02d}.mrc"
        if not path.exists():
            part = path.with_suffix(".part")
            with gzip.open(DATA / f"{path.name}.gz") as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
            part.rename(path)
    return folder


def label_folder(work: Path) -> Path:
    """Links to the label maps, which lie among the tomograms."""
    folder = work / "labels"
    folder.mkdir(exist_ok=True)
    for path in DATA.glob("*_labels.mrc.gz"):
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


def training_data(work: Path, turned_share: float) -> Path:
    store = work / f"labelled{f'_turned_{turned_share:g}' if turned_share else ''}.zarr"
    if not store.exists():
        counts = CutConfig(voxel_size=VOXEL_SIZE, particles_per_tomogram=512, tiles_per_tomogram=256, none_share=0.08, max_shift=30, seed=SEED)
        config = counts.model_copy(update={"turned_share": turned_share})
        cut([work / "tomograms" / f"tomo{number:02d}.mrc" for number in TRAINING], store, labels=label_folder(work), config=config)
    return store


def train_model(store: Path, out: Path, updates: int, initial: Path | None, tiles: int, seed: int) -> Path:
    config = TrainConfig(
        updates=updates,
        updates_per_checkpoint=max(1, updates // 8),
        batch_size=16,
        tiles_per_batch=tiles,
        learning_rate=2e-3 if initial is None else 1e-3,
        validation_share=0.2,
        validation_particles=256,
        initial_model=initial,
        network=NetworkConfig(tasks=("class", "mask", "pick"), spectrum="kept"),
        loss=LossConfig(pick_weight=2),
        augment=AugmentConfig(snr=None, padding_share=0, high_pass_share=0, low_pass_share=0.1, fall_off_share=0.1),
        seed=seed,
    )
    if not out.exists():
        train(store, out, config, resume=out.with_name(f"{out.name}.training").exists())
    return out


def look_again(work: Path, name: str, store: Path, model: Path, picks: Path) -> tuple[Path, float]:
    """The picks with the shape of their class in its pose, and the seconds that all of it takes beyond the picking."""
    library, predictions, poses = work / f"{name}_library", work / f"{name}_predictions", work / f"{name}_poses"
    for made in (library, predictions, poses):
        shutil.rmtree(made, ignore_errors=True)
    started = time.monotonic()
    average_masks(store, library)
    predict(picks / "particles.star", predictions, model, PredictConfig(half_turns=True, write_densities=False))
    orient(predictions, poses, OrientConfig(library=library, align_by="subtomograms", unknown=True, write_labels=True))
    return poses, time.monotonic() - started


def find_objects(objects: pd.DataFrame, found: pd.DataFrame, places: NDArray[np.float64]) -> list[str | None]:
    """The class of the pick that found each object; None where none did."""
    centres = objects[["axis2", "axis1", "axis0"]].to_numpy() * VOXEL_SIZE
    classes: list[str | None] = [None] * len(objects)
    for i, j in match(centres, np.full(len(centres), REACH), places):
        classes[i] = found["triptychClass"].iloc[j]
    return classes


def judge(picks: Path, threshold: float) -> dict[str, Any]:
    found = particles_from_relion(picks / "particles.star")
    assert found.positions is not None
    truth, ours, rows, kept = [], [], [], 0
    for number in TEST:
        name = f"tomo{number:02d}"
        truth.append(read_mrc(DATA / f"{name}_labels.mrc.gz", VOXEL_SIZE).data.astype(np.int64))
        ours.append(label_map(picks, name, {f"class_{k}": k for k in range(1, int(truth[-1].max()) + 1)}))
        here = ((found.table["rlnTomoName"] == name) & (found.table["triptychScore"] >= threshold)).to_numpy()
        objects = pd.read_csv(DATA / f"{name}_objects.csv")
        rows += list(zip(objects["label"], find_objects(objects, found.table[here], found.positions[here]), strict=True))
        kept += int(here.sum())
    true, predicted = np.stack(truth), np.stack(ours)
    per_class = {str(n): dice(true == n, predicted == n) for n in range(1, int(true.max()) + 1)}
    located = [row for row in rows if row[1] is not None]
    return {
        "mean_dice": float(np.mean(list(per_class.values()))),
        "dice": per_class,
        "objects": len(rows),
        "located": len(located),
        "right_class": sum(kind == f"class_{label}" for label, kind in located),
        "picks": kept,
    }


def draw(tomograms: Path, folders: dict[str, Path], picture: Path) -> None:
    """A slice of the first test tomogram, its labels, and those of label maps in folders, by their titles."""
    name = f"tomo{TEST[0]:02d}"
    true = read_mrc(DATA / f"{name}_labels.mrc.gz", VOXEL_SIZE).data.astype(np.int64)
    middle = int((true > 0).sum(axis=(1, 2)).argmax())
    numbers = {f"class_{k}": k for k in range(1, int(true.max()) + 1)}
    maps = {"labels": true} | {title: label_map(folder, name, numbers) for title, folder in folders.items()}
    figure = Figure(figsize=(4 * (1 + len(maps)), 4.3), layout="constrained")
    first, *axes = figure.subplots(1, 1 + len(maps))
    grey = read_mrc(tomograms / f"{name}.mrc", VOXEL_SIZE).data[middle]
    first.imshow(grey, "gray", vmin=np.percentile(grey, 1), vmax=np.percentile(grey, 99), origin="lower")
    first.set_title("tomogram")
    for axis, (title, labels) in zip(axes, maps.items(), strict=True):
        axis.imshow(np.ma.masked_equal(labels[middle], 0), "tab10", vmin=0, vmax=9, origin="lower", interpolation="nearest")
        axis.set_title(title)
    for axis in (first, *axes):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_aspect("equal")
    figure.savefig(picture, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--updates", type=int, default=600)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--initial", type=Path, default=BUILT_IN_MODEL)
    start.add_argument("--scratch", action="store_const", dest="initial", const=None)
    parser.add_argument("--tiles", type=int, default=16, help="tiles in each batch, beside 16 subtomograms")
    parser.add_argument("--turned-share", type=float, default=0.0, help="share of the training data cut in random orientations")
    parser.add_argument("--seed", type=int, default=SEED, help="of the training")
    parser.add_argument("--name", default="labelled")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    parser.add_argument("--picture", type=Path, help="PNG file of a slice")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the labelled tomograms are not at {DATA}: this benchmark needs them")
    keep_freed_memory()
    tomograms = unpack(arguments.work)
    initial, name = arguments.initial, arguments.name
    data = training_data(arguments.work, arguments.turned_share)
    model = train_model(data, arguments.work / f"{name}_model", arguments.updates, initial, arguments.tiles, arguments.seed)
    picks = arguments.work / f"{name}_picks"
    config = PickConfig(voxel_size=VOXEL_SIZE, half_turns=True)
    if not picks.exists():
        pick([tomograms / f"tomo{number:02d}.mrc" for number in TEST], picks, model, config)
    poses, seconds = look_again(arguments.work, name, data, model, picks)
    if arguments.picture:
        draw(tomograms, {"network (pick)": picks, "shapes in their poses (orient)": poses}, arguments.picture)
    begun = "nothing" if initial is None else "the shipped model" if initial == BUILT_IN_MODEL else str(initial)
    write_result(
        name,
        arguments.seed,
        {
            "updates": arguments.updates,
            "from": begun,
            "tiles": arguments.tiles,
            "turned_share": arguments.turned_share,
            **judge(picks, config.min_score),
            "second_look": {**judge(poses, config.min_score), "seconds": seconds},
        },
        load_model(model),
        arguments.results,
    )


if __name__ == "__main__":
    main()
