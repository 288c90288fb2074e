"""Two classical ways to find particles in a tomogram, and a second look at what was found, for picking.py to compare with.

* dog: peaks of differences of Gaussians of several widths, then the classes that `triptych predict` gives the boxes around them
  (the pipeline of the lab whose network triptych implements)
* templates: locally normalised cross-correlation (Roseman, Ultramicroscopy 94:225, 2003) with true structures in evenly spread rotations, low-passed,
  with the missing wedge, without CTF. Some structures only: the time grows with their number.
* oriented: triptych's own picks, predicted as subtomograms and named by the structure that fits them best

Each writes a folder with a particles.star as `triptych pick` does, of which picking.py reads names, classes, places and scores.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cells import timed, wedge
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from triptych.config import NONE_CLASS, OrientConfig, PredictConfig
from triptych.fourier import band_pass, frequency_grid
from triptych.io.mrc import read_mrc
from triptych.io.relion import particle_columns, read_relion
from triptych.io.star import probability_columns, read_star, write_star
from triptych.particles import Frame
from triptych.posing import pose
from triptych.recognition.model import load_model
from triptych.simulation.specimen import OVERSAMPLING, Template
from triptych.stages.orient import orient
from triptych.stages.predict import predict
from triptych.volume import Volume, standardise

WIDTHS = (30.0, 45.0, 70.0, 100.0)
"""Å, standard deviations of the finer Gaussians."""
RATIO = 1.6
"""Of the coarser Gaussian's width to the finer one's, as in blob detectors since Marr and Hildreth."""
LEAST_PEAK = 2.5
"""Of a peak of a difference of Gaussians, in standard deviations of the map: low, since the classes sort them afterwards."""
APART = 60.0
"""Å between two picks at least."""
TEMPLATE_RESOLUTION = 40.0
PEAKS_PER_TEMPLATE = 400


def even_rotations(count: int) -> np.ndarray:
    """(count, 3, 3), evenly spread over all rotations: a super-Fibonacci spiral (Alexa, CVPR 2022)."""
    s = np.arange(count) + 0.5
    inner, outer = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041413
    quaternions = np.stack([inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)], 1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


def open_bright(path: Path) -> Volume:
    """A simulated tomogram, protein bright."""
    tomogram = read_mrc(path)
    return tomogram.with_data(-tomogram.data)


def find_peaks(data: NDArray[np.float32], radius: int, least: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Local maxima (z, y, x) of a map, best first, and their heights."""
    peaks = np.argwhere((data == ndimage.maximum_filter(data, 2 * radius + 1)) & (data >= least))
    heights = data[tuple(peaks.T)]
    order = np.argsort(-heights)
    return peaks[order].astype(float), heights[order].astype(float)


def keep_apart(places: NDArray[np.float64], scores: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Rows of the best places of which no two are nearer than a distance."""
    order = np.argsort(-scores)
    neighbours = cKDTree(places).query_ball_point(places, distance) if len(places) else []
    kept: set[int] = set()
    for i in order:
        if not any(j in kept for j in neighbours[i]):
            kept.add(int(i))
    return np.array(sorted(kept, key=lambda i: -scores[i]), dtype=np.int64)


def write_picks(path: Path, name: str, places: NDArray[np.float64], tomogram: Volume, columns: Mapping[str, object]) -> None:
    """A STAR file of picks at voxels (z, y, x) of one tomogram."""
    turns = np.broadcast_to(np.eye(3), (len(places), 3, 3))
    positions = places[:, ::-1] * tomogram.voxel_size
    table = {"rlnTomoName": name, **particle_columns(positions, turns, Frame.of(tomogram.shape, tomogram.voxel_size)), **columns}
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnTomoTiltSeriesPixelSize": [tomogram.voxel_size]}
    blocks = {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table).assign(rlnOpticsGroup=1)}
    write_star(path, blocks)


def merge(parts: Sequence[Path], tomograms: Path, out: Path) -> None:
    """One STAR file of the picks of all tomograms, and the table of these beside it."""
    files = [read_star(part) for part in parts]
    table = pd.concat([file["particles"] for file in files], ignore_index=True)
    shutil.copy(tomograms / "tomograms.star", out)
    write_star(out / "particles.star", {"optics": files[0]["optics"], "particles": table})


# ----------------------------------------------------------------------------------------------- difference of Gaussians


def run_dog(tomograms: Path, out: Path, model: Path) -> float:
    """Peaks of differences of Gaussians, classified; seconds."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    card = load_model(model).card
    parts = []
    for path in sorted((tomograms / "tomograms").glob("*.mrc")):
        tomogram = open_bright(path)
        peaks = out / f"{path.stem}_peaks.star"
        write_picks(peaks, path.stem, dog_peaks(tomogram), tomogram, {})
        predictions = out / f"{path.stem}_predictions"
        config = PredictConfig(tomograms=path, write_masks=False, write_densities=False)
        predict(peaks, predictions, model, config)
        table = read_relion(predictions / "particles.star").table
        probabilities = table[probability_columns(card.class_names)].to_numpy()
        none = card.class_names.index(NONE_CLASS)
        particle = np.delete(np.arange(len(card.class_names)), none)
        table["triptychClass"] = [card.class_names[i] for i in particle[probabilities[:, particle].argmax(1)]]
        table["triptychScore"] = 1 - probabilities[:, none]
        write_star(out / f"{path.stem}.star", {"optics": read_star(peaks)["optics"], "particles": table})
        parts.append(out / f"{path.stem}.star")
    merge(parts, tomograms, out)
    return time.perf_counter() - started


def dog_peaks(tomogram: Volume) -> NDArray[np.float64]:
    """Places (z, y, x) of the peaks of all widths; of two that are near the higher one."""
    places, heights = [], []
    for width in WIDTHS:
        # A Gaussian of standard deviation s has the transform exp(-(2 pi s k)^2 / 2).
        response = band_pass(tomogram.data, tomogram.voxel_size, 2 * np.pi * RATIO * width, 2 * np.pi * width)
        response /= response.std()
        found, height = find_peaks(response, max(1, round(width / tomogram.voxel_size)), LEAST_PEAK)
        places.append(found)
        heights.append(height)
    every, scores = np.concatenate(places), np.concatenate(heights)
    return every[keep_apart(every, scores, APART / tomogram.voxel_size)]


# -------------------------------------------------------------------------------------------------- template matching


def choose_templates(templates: Sequence[Template], count: int) -> list[Template]:
    """The largest half of them by radius in even steps: small ones are lost in noise for template matching, and take as long."""
    by_size = sorted(templates, key=lambda template: -template.radius)
    half = by_size[: max(count, len(by_size) // 2)]
    return [half[i] for i in np.unique(np.linspace(0, len(half) - 1, count).astype(int))]


def run_templates(tomograms: Path, out: Path, templates: Sequence[Template], rotations: int) -> float:
    """Correlate with each template in each rotation, and keep the peaks; seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.perf_counter()
    tilts = pd.DataFrame(read_star(tomograms / "tomograms.star")["global"]).set_index("rlnTomoName")[["triptychTiltMin", "triptychTiltMax"]]
    parts = []
    for path in sorted((tomograms / "tomograms").glob("*.mrc")):
        tomogram = open_bright(path)
        tilt_range = tuple(float(angle) for angle in tilts.loc[path.stem])
        found = [correlate(tomogram, template, even_rotations(rotations), tilt_range) for template in templates]
        places = np.concatenate([places for places, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        names = np.repeat([template.name for template in templates], [len(scores) for _, scores in found])
        kept = keep_apart(places, scores, APART / tomogram.voxel_size)
        columns = {"triptychClass": names[kept], "triptychScore": scores[kept]}
        write_picks(out / f"{path.stem}.star", path.stem, places[kept], tomogram, columns)
        parts.append(out / f"{path.stem}.star")
    merge(parts, tomograms, out)
    return time.perf_counter() - started


def correlate(
    tomogram: Volume, template: Template, rotations: NDArray[np.float64], tilts: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of the highest correlations over all rotations, and by how many standard deviations of the map they rise above its mean."""
    size = 2 * int(np.ceil(template.radius)) + 4
    data = torch.from_numpy(standardise(tomogram.data))
    spectrum = torch.fft.rfftn(data)
    ball = torch.from_numpy(np.linalg.norm(np.indices((size,) * 3) - size // 2, axis=0) <= template.radius).float()
    spread = local_deviation(spectrum, data, ball)
    k = torch.from_numpy(frequency_grid((size,) * 3, tomogram.voxel_size))
    transfer = wedge(size, tilts[0], tilts[1]) * torch.exp(-((k * TEMPLATE_RESOLUTION) ** 2) / 2)
    best = torch.full(data.shape, -torch.inf)
    for rotation in torch.from_numpy(rotations):
        posed = pose(template.fine, OVERSAMPLING, rotation, torch.zeros(3), size)
        seen = torch.fft.irfftn(torch.fft.rfftn(posed) * transfer, s=(size,) * 3)
        seen = (seen - (seen * ball).sum() / ball.sum()) * ball
        score = torch.fft.irfftn(spectrum * spread_kernel(seen / seen.norm(), data.shape).conj(), s=data.shape)
        best = torch.maximum(best, score)
    scores = (best / spread).numpy()
    scores = (scores - scores.mean()) / scores.std()
    peaks, heights = find_peaks(scores, max(1, round(template.radius / 2)), 3.0)
    return peaks[:PEAKS_PER_TEMPLATE], heights[:PEAKS_PER_TEMPLATE]


def spread_kernel(box: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Transform of a box whose centre, index n // 2, is laid on voxel 0 of a periodic volume."""
    kernel = torch.zeros(shape)
    n = box.shape[0]
    kernel[:n, :n, :n] = box
    spectrum: torch.Tensor = torch.fft.rfftn(torch.roll(kernel, [-(n // 2)] * 3, (0, 1, 2)))
    return spectrum


def local_deviation(spectrum: torch.Tensor, data: torch.Tensor, ball: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the values within a ball around each voxel."""
    kernel = spread_kernel(ball / ball.sum(), data.shape).conj()
    mean, square = (torch.fft.irfftn(part * kernel, s=data.shape) for part in (spectrum, torch.fft.rfftn(data**2)))
    deviation: torch.Tensor = (square - mean**2).clamp_min(1e-6).sqrt()
    return deviation


def run_oriented(picks: Path, out: Path, model: Path, library: Path | None) -> float:
    """The picks, named anew and moved to where the structures are, and a label map of these; seconds."""
    predictions = out.with_name(f"{out.name}_predictions")
    config = OrientConfig(library=library, unknown=True, write_densities=False, write_labels=True)
    seconds = timed(predictions, lambda: predict(picks / "particles.star", predictions, model, PredictConfig(write_masks=False)))
    seconds += timed(out, lambda: orient(predictions, out, config))
    shutil.copy(picks / "tomograms.star", out)  # whose sizes the places count from
    return round(seconds, 1)
