"""A make-believe dataset store and the prediction folder that a fair network might write for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from triptych.config import PredictConfig
from triptych.fourier import band_pass
from triptych.io.manifest import write_manifest
from triptych.io.mrc import write_mrc
from triptych.io.star import probability_columns, write_star
from triptych.io.store import BOX_ARRAYS, ROW_ARRAYS, Rows, Store, create_store, particle_name
from triptych.volume import Volume

CLASS_NAMES = ("ribosome_70s", "proteasome_20s", "apoferritin", "spike", "hsp90_sba1", "none")
VOXEL_SIZE = 10.0


@dataclass(frozen=True)
class Fake:
    """Paths of a fake case, and what is true of it."""

    predictions: Path
    truth: Path
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    snr: NDArray[np.float64]


def make_shape(index: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres (n, 3) in Å of the balls that a class is made of."""
    count, reach = 6 + 5 * (index % 4), 35 + 12 * (index % 5)
    points = rng.normal(size=(count, 3))
    points *= reach / np.linalg.norm(points, axis=1, keepdims=True) * rng.uniform(0.5, 1, (count, 1))
    return points * np.array([1.0, 0.5 + 0.25 * (index % 3), 0.5 + 0.1 * (index % 6)])


def draw_balls(centres: NDArray[np.float64], size: int, width: float = 16.0) -> NDArray[np.float64]:
    """Density of Gaussian balls, [z, y, x]; about 1 inside."""
    axis = (np.arange(size) - size // 2) * VOXEL_SIZE
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    total = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2)) for a, b, c in centres)
    return np.asarray(1.2 * (1 - np.exp(-1.3 * np.asarray(total))))


def coloured_noise(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    noise = band_pass(rng.normal(size=(size,) * 3).astype(np.float32), VOXEL_SIZE, 400.0, 9.0)
    return np.asarray(noise / noise.std(), np.float64)


def soften(data: NDArray[np.float64], resolution: float) -> NDArray[np.float32]:
    return band_pass(data.astype(np.float32), VOXEL_SIZE, 1e6, resolution)


def fake_probabilities(label: NDArray[np.int64], snr: NDArray[np.float64], classes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    logits = rng.normal(0, 1.0, (len(label), classes))
    near = (label + 1) % classes
    logits[np.arange(len(label)), near] += 1.5
    logits[np.arange(len(label)), label] += 4.2 + 1.2 * np.log(snr / 0.1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def fill_with_zeros(store: Store) -> None:
    """Every chunk of every array, as a store has them that was simulated."""
    for name in (*BOX_ARRAYS, *ROW_ARRAYS):
        array = store.array(name)
        store.write(name, 0, np.zeros(array.shape, array.dtype))


def make_fake(
    folder: Path,
    count: int = 36,
    size: int = 16,
    class_names: tuple[str, ...] = CLASS_NAMES,
    snr: tuple[float, float] = (0.03, 0.4),
    warning: str | None = None,
    seed: int = 0,
    tomograms: int = 1,
) -> Fake:
    """Write `truth.zarr` and `predictions` into a folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    label = np.arange(count) % len(class_names)
    noise_level = np.exp(rng.uniform(*np.log(snr), count))
    shapes = [make_shape(k, np.random.default_rng(k)) for k in range(len(class_names))]
    truth, predictions = folder / "truth.zarr", folder / "predictions"
    store = create_store(truth, Rows(count, 12), Rows(0, 0), VOXEL_SIZE, size, class_names, {"seed": seed})
    fill_with_zeros(store)
    (predictions / "masks").mkdir(parents=True)
    (predictions / "densities").mkdir()
    for i in range(count):
        turn = Rotation.random(rng=rng)
        density = draw_balls(turn.apply(shapes[label[i]]) + rng.uniform(-15, 15, 3), size)
        neighbour = draw_balls(shapes[(i * 7) % len(shapes)] + np.array([0.45 * size * VOXEL_SIZE, 0, 40.0]), size)
        if class_names[label[i]] == "none":
            density *= 0
        signal = soften(density + 0.8 * neighbour, 8.0)
        subtomogram = (signal - signal.mean()) / signal.std() + coloured_noise(size, rng) / np.sqrt(noise_level[i])
        error = soften(rng.normal(size=density.shape), 25.0)
        recovered = (soften(density, 9.0) + error / error.std() * 0.05 * (0.1 / noise_level[i]) ** 0.4).astype(np.float32)
        store.write("subtomogram", i, subtomogram[None].astype(np.float16))
        store.write("density", i, density[None].astype(np.float16))
        store.write("mask", i, (density > 0.35)[None].astype(np.uint8))
        name = particle_name(i)
        write_mrc(predictions / "masks" / f"{name}.mrc", Volume((recovered > 0.38).astype(np.int8), VOXEL_SIZE))  # type: ignore[arg-type]
        write_mrc(predictions / "densities" / f"{name}.mrc", Volume(recovered, VOXEL_SIZE))
    store.write("label", 0, label.astype(np.int16))
    store.write("snr", 0, noise_level.astype(np.float32))
    store.write("tomogram", 0, (np.arange(count) % tomograms).astype(np.int32))

    probabilities = fake_probabilities(label, noise_level, len(class_names), rng)
    predicted = probabilities.argmax(axis=1)
    table: dict[str, Any] = {
        "triptychName": [particle_name(i) for i in range(count)],
        "triptychEmbeddingRow": np.arange(1, count + 1),
        "triptychClass": [class_names[k] for k in predicted],
        "triptychProbability": probabilities.max(axis=1),
        **dict(zip(probability_columns(class_names), probabilities.T, strict=True)),
        "triptychMask": [f"masks/{particle_name(i)}.mrc" for i in range(count)],
        "triptychDensity": [f"densities/{particle_name(i)}.mrc" for i in range(count)],
        "rlnClassNumber": predicted + 1,
    }
    write_star(predictions / "particles.star", {"particles": pd.DataFrame(table)})
    centres = rng.normal(size=(len(class_names), 32)) * 1.6
    np.save(predictions / "embedding.npy", (centres[label] + rng.normal(size=(count, 32))).astype(np.float32))
    extra = {
        "particles": {
            "path": str(truth),
            "kind": "store",
            "count": count,
            "voxel_size": VOXEL_SIZE,
            "contrast": "bright",
            "contrast_warning": warning,
        },
        "model": {"name": "fake", "class_names": list(class_names), "voxel_size": VOXEL_SIZE, "box_size": size, "sha256": "0123456789abcdef" * 4},
        "device": "CPU, 2 threads",
        "seconds": count / 150,
        "particles_per_second": 150.0,
    }
    write_manifest(predictions, "predict", PredictConfig(), [truth], None, extra)
    return Fake(predictions, truth, label, predicted, noise_level)
