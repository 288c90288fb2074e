"""Which hand do the real ribosomes have? Their average in the poses that come with them, beside the 70S ribosome and its mirror image.

    python benchmarks/real_hand.py [--data FOLDER]

FOLDER holds ribosome_70s_real and ribosome_70s_tilt_stacks (see docs/real_data.md). No network and no search of the particles' poses has a
part in it. The error of the difference is that of the jackknife (one particle left out at a time). Writes benchmarks/results/real_hand.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from results import write_result

from triptych.align import Alignment, average
from triptych.config import AlignConfig, PredictConfig
from triptych.fourier import wedge_weights
from triptych.identify import identify
from triptych.io.convert import read_particles
from triptych.io.mrc import read_mrc
from triptych.io.source import open_particles
from triptych.structures import Structure, load_library
from triptych.volume import standardise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"given subtomograms": ("ribosome_70s_real", -1), "our reconstructions of their tilt images": ("ribosome_70s_tilt_stacks", 1)}
"""Folder, and the sign that makes protein bright."""
TILT_MAX, VOXEL_SIZE, RESOLUTION, REFERENCE_RESOLUTION = 54.0, 12.0, 40.0, 25.0
Map = NDArray[np.float32]


def compare(density: Map, ribosome: Structure, resolution: float) -> tuple[float, float]:
    """Correlation with the ribosome and with its mirror image, each aligned to the density."""
    match = identify(density, [ribosome], VOXEL_SIZE, AlignConfig(resolution=resolution))[0]
    return match.correlation, match.mirror_correlation


def average_of(boxes: Map, rotations: NDArray[np.float64]) -> Map:
    poses = Alignment(rotations, np.zeros((len(boxes), 3)), np.ones(len(boxes), np.float32))
    wedge = wedge_weights(boxes.shape[1:], -TILT_MAX, TILT_MAX)[None]  # type: ignore[arg-type]
    return average(boxes, poses, VOXEL_SIZE, wedge)[0]


def judge(star: Path, sign: int, rotations: NDArray[np.float64], ribosome: Structure) -> dict[str, float]:
    """The average of the particles of a STAR file against both hands."""
    source = open_particles(star, PredictConfig(), 400.0)
    boxes = np.stack([standardise(sign * source.read(row).data) for row in range(len(source))])
    same, mirrored = compare(average_of(boxes, rotations), ribosome, RESOLUTION)
    count = len(boxes)
    without = [compare(average_of(np.delete(boxes, row, 0), np.delete(rotations, row, 0)), ribosome, RESOLUTION) for row in range(count)]
    differences = np.array([a - b for a, b in without])
    error = float(np.sqrt((count - 1) * differences.var()))
    return {"particles": count, "resolution": RESOLUTION, "correlation": same, "mirror_correlation": mirrored, "difference_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    folder = parser.parse_args().data
    ribosome = next(item for item in load_library() if item.name == "ribosome_70s")
    rotations = read_particles(folder / "ribosome_70s_tilt_stacks" / "particles.star").rotations  # the same particles in the same order
    assert rotations is not None
    densities = {name: judge(folder / place / "particles.star", sign, rotations, ribosome) for name, (place, sign) in SETS.items()}
    reference = read_mrc(folder / "ribosome_70s_real" / "reference.mrc", VOXEL_SIZE).data
    same, mirrored = compare(reference, ribosome, REFERENCE_RESOLUTION)
    densities["reference.mrc"] = {"resolution": REFERENCE_RESOLUTION, "correlation": same, "mirror_correlation": mirrored}
    write_result("real_hand", 0, {"densities": densities})


if __name__ == "__main__":
    main()
