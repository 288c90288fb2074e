"""Memory of predict and pick, which should not grow with the number of particles or the size of the tomogram.

    python benchmarks/memory.py WORK [--counts 100 1000] [--shapes 128x128x128 256x256x256] [--name memory]
        [--narrow-counts 100 1000 10000 100000] [--narrow-shapes 128x128x128 256x256x256 300x512x512 300x1024x1024]

The input is synthetic: noise, and positions drawn in it. Each measurement runs in a process of its own. Noted is the largest memory of its own
(looked up 20 times a second), and the largest resident memory, in which those parts of mapped files count that the system happens to keep, until
it needs the room; predict writes no maps, which take room on the disk only. The shipped model takes hours for the largest inputs on two
cores. What its network holds is seen from small ones; what is held of each particle and voxel does not depend on the network, and is
measured with a narrow one of random weights. Inputs are kept in WORK, and every measurement, so that a run that was stopped goes on. Writes
benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cells import run_apart
from results import FOLDER, write_result

from triptych.config import NetworkConfig, PickConfig, PredictConfig, TrainConfig
from triptych.io.mrc import new_mrc
from triptych.io.star import write_star
from triptych.recognition.model import BUILT_IN_MODEL, Model, load_model
from triptych.recognition.network import Network
from triptych.stages.pick import pick
from triptych.stages.predict import predict

VOXEL_SIZE = 10.0
FIELD = (128, 256, 256)
"""The tomogram that the particles of all counts are cut from."""
MARGIN = 24
SLAB = 16
NARROW_BOX = 16
NARROW_THRESHOLD = 0.525
"""Of a centre, for which the random network says 0.51 nearly everywhere: so about one voxel in 10,000 is looked at, as in a crowd."""
SEED = 0
INTERVAL = 0.05


def write_noise(path: Path, shape: tuple[int, int, int]) -> Path:
    """A tomogram of noise, slab by slab."""
    if not path.exists():
        rng = np.random.default_rng(SEED)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_mrc(path, shape, "f4", VOXEL_SIZE) as data:
            for first in range(0, shape[0], SLAB):
                data[first : first + SLAB] = rng.standard_normal(data[first : first + SLAB].shape, dtype=np.float32)
    return path


def write_positions(folder: Path, count: int) -> Path:
    """A STAR file of positions in the field, in voxels."""
    path = folder / f"particles_{count}.star"
    if not path.exists():
        write_noise(folder / "field.mrc", FIELD)
        positions = np.random.default_rng(SEED).uniform(MARGIN, np.array(FIELD[::-1]) - MARGIN, (count, 3))
        table = pd.DataFrame(positions, columns=["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]).assign(rlnTomoName="field", rlnOpticsGroup=1)
        write_star(path, {"optics": pd.DataFrame({"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [VOXEL_SIZE]}), "particles": table})
    return path


def make_narrow_model(folder: Path) -> Path:
    """A model as the shipped one, but for small boxes, a network of few channels and no novelty reference."""
    if not folder.exists():
        torch.manual_seed(SEED)
        card = load_model(device="cpu").card
        config = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=card.network.embedding_size)
        network = Network(config, len(card.class_names), len(card.label_names))
        Model(network, replace(card, network=config, box_size=NARROW_BOX), "cpu", "bfloat16").save(folder, TrainConfig(network=config), [], 0)
    return folder


class Watch:
    """Largest memory and time of what is done within it."""

    def __enter__(self) -> Watch:
        self._over, self._own_gb, self._started = threading.Event(), 0.0, time.perf_counter()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(INTERVAL):
            lines = Path("/proc/self/status").read_text().splitlines()
            self._own_gb = max(self._own_gb, *(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("RssAnon")))

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        self._over.set()
        self._thread.join()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        self.figures = {"own_gb": round(self._own_gb, 3), "peak_gb": round(peak, 3), "seconds": round(seconds, 1)}


def measure_predict(particles: Path, out: Path, model: Path) -> dict[str, float]:
    with Watch() as watch:
        predict(particles, out, model, config=PredictConfig(write_masks=False, write_densities=False, contrast="dark"))
    return watch.figures


def measure_pick(tomogram: Path, out: Path, model: Path, threshold: float) -> dict[str, float]:
    with Watch() as watch:
        pick([tomogram], out, model, PickConfig(threshold=threshold))
    return {**watch.figures, "picks": len(np.load(out / "embedding.npy", mmap_mode="r", allow_pickle=False))}


def parse_shape(text: str) -> tuple[int, int, int]:
    z, y, x = (int(word) for word in text.split("x"))
    return z, y, x


def measure(work: Path, model: Path, counts: list[int], shapes: list[tuple[int, int, int]], threshold: float) -> dict[str, Any]:
    """Peak memory and time of a model for each input."""
    figures: dict[str, Any] = {"predict": [], "pick": []}
    for count in counts:
        particles = write_positions(work, count)
        figures["predict"].append({"particles": count, **measure_once(work, f"{model.name}_{count}", measure_predict, particles, model)})
    for shape in shapes:
        name = "x".join(map(str, shape))
        tomogram = write_noise(work / f"{name}.mrc", shape)
        figures["pick"].append({"shape": list(shape), **measure_once(work, f"{model.name}_{name}", measure_pick, tomogram, model, threshold)})
    return figures


def measure_once(work: Path, name: str, function: Callable[..., dict[str, float]], given: Path, *arguments: Any) -> dict[str, float]:
    """What a process of its own measures, or has measured before."""
    kept, out = work / f"{name}.json", work / "out"
    if not kept.exists():
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(work / ".out.part", ignore_errors=True)
        kept.write_text(json.dumps(run_apart(function, given, out, *arguments)))
        shutil.rmtree(out)
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for inputs and outputs")
    small = [(128,) * 3, (256,) * 3]
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 1000], help="particles for the shipped model")
    parser.add_argument("--shapes", type=parse_shape, nargs="*", default=small, help="tomograms for the shipped model, ZxYxX")
    parser.add_argument("--narrow-counts", type=int, nargs="*", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--narrow-shapes", type=parse_shape, nargs="*", default=[*small, (300, 512, 512), (300, 1024, 1024)])
    parser.add_argument("--name", default="memory", help="of the result file")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    narrow = make_narrow_model(work / "narrow_model")
    figures = {
        **measure(work, BUILT_IN_MODEL, arguments.counts, arguments.shapes, PickConfig().threshold),
        "narrow": measure(work, narrow, arguments.narrow_counts, arguments.narrow_shapes, NARROW_THRESHOLD),
    }
    write_result(arguments.name, SEED, figures, load_model(), arguments.results)


if __name__ == "__main__":
    main()
