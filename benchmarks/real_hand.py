"""Which hand do the real ribosomes have? Their average in the poses that come with them, beside the 70S ribosome and its mirror image; and
what `triptych orient` says of the hand of these and of simulated particles.

    python benchmarks/real_hand.py [--data FOLDER]

FOLDER holds ribosome_70s_real and ribosome_70s_tilt_stacks (see docs/real_data.md). No network and no search of the particles' poses has a
part in it. The error of the difference is that of the jackknife (one particle left out at a time). The check of `orient` is tried on these
particles and on simulated ones of four structures, as they are and mirrored. Writes benchmarks/results/real_hand.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import FOLDER, write_result

from triptych.alignment.align import Alignment, average
from triptych.alignment.hand import tell_hand
from triptych.alignment.identify import identify, mirror
from triptych.config import AlignConfig, OrientConfig, PredictConfig, SimulateConfig
from triptych.fourier import resample_to_box, wedge_weights
from triptych.io.mrc import read_mrc
from triptych.io.particle_lists import read_particles
from triptych.io.particle_source import ParticleSource
from triptych.io.source import open_particles
from triptych.io.store import open_store
from triptych.simulation.library import load_library
from triptych.simulation.structures import Structure
from triptych.stages.simulate import simulate
from triptych.volume import standardise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"given subtomograms": ("ribosome_70s_real", -1), "our reconstructions of their tilt images": ("ribosome_70s_tilt_stacks", 1)}
"""Folder, and the sign that makes protein bright."""
TILT_MAX, VOXEL_SIZE, RESOLUTION, REFERENCE_RESOLUTION = 54.0, 12.0, 40.0, 25.0
Map = NDArray[np.float32]
TOLD_BY = ("ribosome_70s", "ribosome_50s", "rna_polymerase_2", "cand1_cul1")
SNRS, SEED = (0.1, 0.03), 0
"""Of the simulated particles."""


def compare(density: Map, ribosome: Structure, resolution: float) -> tuple[float, float]:
    """Correlation with the ribosome and with its mirror image, each aligned to the density."""
    match = identify(density, [ribosome], VOXEL_SIZE, AlignConfig(resolution=resolution))[0]
    return match.correlation, match.mirror_correlation


def average_of(boxes: Map, rotations: NDArray[np.float64], wedges: Map) -> Map:
    poses = Alignment(rotations, np.zeros((len(boxes), 3)), np.ones(len(boxes), np.float32))
    return average(boxes, poses, VOXEL_SIZE, wedges)[0]


def weigh(source: ParticleSource, wedges: Map, voxel_size: float) -> Map:
    """Wedges (n, d, d, d // 2 + 1) and what is left of the CTF, where that is known."""
    known = source.transfers
    return wedges if known is None else np.stack([wedge * known.of(row, len(wedge), voxel_size) for row, wedge in enumerate(wedges)])


def judge(star: Path, sign: int, rotations: NDArray[np.float64], ribosome: Structure) -> dict[str, float]:
    """The average of the particles of a STAR file against both hands."""
    source = open_particles(star, PredictConfig(), 400.0)
    boxes = np.stack([standardise(sign * source.read(row).data) for row in range(len(source))])
    count = len(boxes)
    wedges = weigh(source, np.repeat(wedge_weights(boxes.shape[1:], -TILT_MAX, TILT_MAX)[None], count, 0), VOXEL_SIZE)
    same, mirrored = compare(average_of(boxes, rotations, wedges), ribosome, RESOLUTION)
    others = [np.delete(np.arange(count), row) for row in range(count)]
    without = [compare(average_of(boxes[rows], rotations[rows], wedges[rows]), ribosome, RESOLUTION) for rows in others]
    differences = np.array([a - b for a, b in without])
    error = float(np.sqrt((count - 1) * differences.var()))
    return {"particles": count, "resolution": RESOLUTION, "correlation": same, "mirror_correlation": mirrored, "difference_error": error}


def tell(source: ParticleSource, sign: int, names: list[str], tilts: tuple[float, float] | None) -> dict[str, Any]:
    """What the check of `orient` says of particles whose structures are known, and of their mirror images."""
    boxes = [source.read(row) for row in range(len(source))]
    volumes, voxel_size = np.stack([standardise(sign * box.data) for box in boxes]), boxes[0].voxel_size
    size = volumes.shape[-1]
    ranges = np.tile(tilts, (len(boxes), 1)) if tilts else source.tilt_ranges
    assert ranges is not None
    wedges = weigh(source, np.stack([wedge_weights((size,) * 3, low, high) for low, high in ranges]), voxel_size)
    structures = {item.name: item for item in load_library()}
    known = sorted(set(names))
    references = {k: resample_to_box(structures[name].density, voxel_size, size, fill=0) for k, name in enumerate(known)}
    label = np.array([known.index(name) for name in names])
    # about y, the tilt axis, the wedge is the same after x -> -x
    hands = {"as_is": volumes, "mirrored": mirror(volumes)}
    told = {way: tell_hand(data, wedges, label, references, voxel_size, AlignConfig()) for way, data in hands.items()}
    return {way: None if hand is None else {**hand._asdict(), "verdict": hand.verdict} for way, hand in told.items()}


def tell_simulated(snr: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        count = OrientConfig().hand_check
        config = SimulateConfig(particles=count, classes=TOLD_BY, none_share=0, tile_share=0, snr=(snr, snr), seed=SEED, particles_per_tomogram=8)
        store = open_store(simulate(Path(folder) / "data.zarr", config))
        names = [store.class_names[label] for label in store["label"][:]]
        return tell(open_particles(Path(folder) / "data.zarr", PredictConfig(), 400.0), 1, names, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    folder = arguments.data
    ribosome = next(item for item in load_library() if item.name == "ribosome_70s")
    rotations = read_particles(folder / "ribosome_70s_tilt_stacks" / "particles.star").rotations  # the same particles in the same order
    assert rotations is not None
    densities = {name: judge(folder / place / "particles.star", sign, rotations, ribosome) for name, (place, sign) in SETS.items()}
    reference = read_mrc(folder / "ribosome_70s_real" / "reference.mrc", VOXEL_SIZE).data
    same, mirrored = compare(reference, ribosome, REFERENCE_RESOLUTION)
    densities["reference.mrc"] = {"resolution": REFERENCE_RESOLUTION, "correlation": same, "mirror_correlation": mirrored}
    told = {f"simulated, SNR {snr:g}": tell_simulated(snr) for snr in SNRS}
    for name, (place, sign) in SETS.items():
        source = open_particles(folder / place / "particles.star", PredictConfig(), 400.0)
        told[name] = tell(source, sign, ["ribosome_70s"] * len(source), (-TILT_MAX, TILT_MAX))
    write_result("real_hand", SEED, {"densities": densities, "told": told}, folder=arguments.results)


if __name__ == "__main__":
    main()
