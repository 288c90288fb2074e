"""What `triptych pick` sees in three real tomograms that hold none of its classes: virions (EMD-1155) and two crops with a microtubule.

    python benchmarks/real_tomograms.py WORK [--data FOLDER] [--model FOLDER]

Each is picked with the contrast that it has and with the opposite one. There is no truth: counted are the picks, those called unknown, and
the share of the volume that is called membrane or particle. Picks are kept in WORK. Writes benchmarks/results/real_tomograms.json and
docs/images/real_tomograms.png.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from results import FOLDER, write_result

from triptych.config import UNKNOWN, Contrast, PickConfig
from triptych.io.manifest import read_manifest
from triptych.io.mrc import mmap_mrc
from triptych.io.star import read_star
from triptych.parallel import keep_freed_memory
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.stages.pick import pick

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tomograms_real"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "real_tomograms.png"
TOMOGRAMS: dict[str, tuple[str, tuple[Contrast, Contrast]]] = {
    "emd_1155": ("emd_1155.map.gz", ("dark", "bright")),
    "microtubule_13pf": ("microtubule_13pf.mrc.gz", ("bright", "dark")),
    "microtubule_14pf": ("microtubule_14pf.mrc.gz", ("bright", "dark")),
}
"""File, its contrast and the opposite one."""
SEEN = ("nothing", "particle", "membrane", "gold")
COLOURS: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": len(SEEN) - 1, "interpolation": "nearest"}


def unpack(file: Path, work: Path) -> Path:
    """Tomograms are read in pieces, so that they must not be compressed."""
    tomogram = work / file.stem
    if not tomogram.exists():
        with gzip.open(file) as source, tomogram.open("wb") as target:
            shutil.copyfileobj(source, target)
    return tomogram


def read_seen(picks: Path, name: str) -> np.ndarray:
    """Index into SEEN of each voxel."""
    classes = read_star(picks / "classes.star")["classes"]
    assert isinstance(classes, pd.DataFrame)
    index = [0] + [SEEN.index(label) if label in SEEN else 1 for label in classes["triptychClass"]]
    labels = np.asarray(mmap_mrc(picks / "labels" / f"{name}.mrc").data, int)
    return np.asarray(np.array(index)[labels])


def describe(picks: Path, name: str) -> dict[str, Any]:
    table = read_star(picks / "particles.star")["particles"]
    assert isinstance(table, pd.DataFrame)
    seen = read_seen(picks, name)
    return {
        "picks": len(table),
        "unknown": int((table["triptychVerdict"] == UNKNOWN).sum()),
        "volume": {label: float((seen == i).mean()) for i, label in enumerate(SEEN)},
        "contrast_warnings": len(read_manifest(picks)["contrast_warnings"]),
    }


def draw(work: Path, tomograms: dict[str, Path], picture: Path) -> None:
    """The middle slice of each, and what is seen in it with the contrast that it has and with the other."""
    figure, axes = plt.subplots(len(tomograms), 3, figsize=(12, 9), layout="constrained")
    for row, (name, path) in zip(axes, tomograms.items(), strict=True):
        volume = mmap_mrc(path).data
        number = volume.shape[0] // 2
        slices = [np.asarray(volume[number - 1 : number + 2], float).mean(0)]
        slices += [read_seen(work / f"{name}_{contrast}", name)[number] for contrast in TOMOGRAMS[name][1]]
        titles = (name, *(f"contrast={contrast}" for contrast in TOMOGRAMS[name][1]))
        for axis, image, title in zip(row, slices, titles, strict=True):
            # The long side along the page.
            upright = image.T if image.shape[0] > image.shape[1] else image
            axis.imshow(upright, **({"cmap": "gray"} if title == name else COLOURS))
            axis.set_title(title, fontsize=10)
            axis.axis("off")
    colours = [Line2D([], [], marker="s", ls="", color=plt.get_cmap("inferno")(i / (len(SEEN) - 1)), label=SEEN[i]) for i in (1, 2)]
    figure.legend(handles=colours, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(picture, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.exit(2, f"error: {arguments.data} does not exist: give the folder of the real tomograms with --data\n")
    keep_freed_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tomograms = {name: unpack(arguments.data / file, arguments.work) for name, (file, _) in TOMOGRAMS.items()}
    figures: dict[str, Any] = {}
    for name, (_, contrasts) in TOMOGRAMS.items():
        for contrast, right in zip(contrasts, (True, False), strict=True):
            out = arguments.work / f"{name}_{contrast}"
            if not out.exists():
                pick([tomograms[name]], out, arguments.model, PickConfig(contrast=contrast))
            figures[f"{name}_{contrast}"] = {"tomogram": name, "contrast": contrast, "right_contrast": right, **describe(out, name)}
    draw(arguments.work, tomograms, arguments.picture)
    write_result("real_tomograms", 0, {"tomograms": figures}, load_model(arguments.model), arguments.results)


if __name__ == "__main__":
    main()
