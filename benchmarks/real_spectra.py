"""Power spectra and grey values of simulated ribosomes beside those of real ones.

    python benchmarks/real_spectra.py --library LIBRARY [--data FOLDER]

LIBRARY must hold ribosome_70s among others; FOLDER the real particles (ribosome_70s_real: particles.star and truth.npz). Three sets are
compared, each particle standardised, protein bright, on the real particles' voxels and box:

- real: the particles;
- matched: simulated with what is known of the real acquisition (tilts, dose, defocus, astigmatism, deconvolution) and a crowding, low-pass
  filter and misalignment chosen so that the spectra and the correlation with the clean density agree;
- randomised: drawn as for training, augmentation included; the range from the 1st to the 99th percentile has to hold the real ones.

Writes benchmarks/results/real_spectra.json and docs/images/real_spectra.png.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from results import FOLDER, write_result
from scipy import stats

mpl.use("Agg")
import matplotlib.pyplot as plt

from triptych.config import AcquisitionConfig, AugmentConfig, PredictConfig, SimulateConfig, SpecimenConfig
from triptych.fourier import band_pass, radial_power_spectrum
from triptych.io.source import open_particles
from triptych.parallel import keep_freed_memory, map_items
from triptych.stages.simulate import choose_targets, particle_crop, simulate_tomogram
from triptych.training.dataset import augment
from triptych.volume import Volume, standardise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ribosome_70s_real"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "real_spectra.png"
TARGET = "ribosome_70s"
VOXEL_SIZE, BOX = 12.0, 32
BAND = (25.0, 384.0)
"""Å, over which spectra are compared."""
ANGLES = np.arange(0, 91, 7.5)
GREY = np.linspace(-5, 5, 101)
SEED = 0
Array = np.ndarray[Any, Any]

SHAPE = (96, 192, 192)
MATCHED = SimulateConfig(
    voxel_size=VOXEL_SIZE,
    box_size=BOX,
    snr=None,
    specimen=SpecimenConfig(shape=SHAPE, ice_thickness=(1500, 1500), occupancy=(0.12, 0.12), cytosol=(0.2, 0.2), vesicles=(0, 0), gold_beads=(0, 0)),
    acquisition=AcquisitionConfig(
        tilt_max=(54, 54),
        tilt_step=(3, 3),
        tilt_order={"dose_symmetric": 1},
        tilt_jitter=(0.3, 0.3),
        shift_jitter=(8, 8),
        defocus_um=(3, 3),
        astigmatism_um=(0.35, 0.35),
        dose_e_per_a2=(94.6, 94.6),
        b_factor=(0, 0),
        ctf_correction={"deconvolve": 1},
        deconvolution_constant=(0.02, 0.02),
        dose_weighting=1,
        smoothing={"low_pass": 1},
        low_pass=(28, 28),
    ),
)
RANDOMISED = MATCHED.model_copy(
    update={
        "specimen": SpecimenConfig(shape=SHAPE, occupancy=(0.02, 0.2), cytosol=(0, 0.3), voxel_size_error=(0.95, 1.05)),
        "acquisition": AcquisitionConfig(
            tilt_max=(50, 66),
            tilt_step=(2, 4),
            tilt_jitter=(0, 1),
            shift_jitter=(0, 15),
            defocus_um=(1.5, 6),
            dose_e_per_a2=(60, 160),
            b_factor=(0, 1000),
        ),
    }
)


def simulate_one(config: SimulateConfig, randomised: bool, seed: int) -> tuple[list[Array], list[Array]]:
    """Subtomograms of the target from one tomogram, and their clean densities."""
    keep_freed_memory()
    rng = np.random.default_rng((SEED, seed))
    tomogram = simulate_tomogram(rng, config)
    templates = tomogram.particles.templates
    chosen = choose_targets(rng, tomogram.specimen, config, len(templates), 10_000)
    boxes, densities = [], []
    for number in dict.fromkeys(i for i in chosen if templates[tomogram.specimen.placed[i].label].name == TARGET):
        crop = particle_crop(rng, tomogram, config.model_copy(update={"max_shift": 0.0}), number)
        volumes = np.stack([crop.signal + crop.noise, crop.mask, crop.density]).astype(np.float32)
        if randomised:
            plain = AugmentConfig(inverted_share=0, scrambled_share=0, low_pass=(2 * VOXEL_SIZE, 50), low_pass_share=0.5, fall_off_share=0.5)
            scale = np.sqrt(np.exp(rng.uniform(np.log(0.03), np.log(3)))) / crop.signal.std() * crop.noise.std()
            volumes[0] = scale * crop.signal + crop.noise
            augment(volumes, 0, rng, plain, VOXEL_SIZE, None)
        boxes.append(standardise(volumes[0]))
        densities.append(volumes[2])
    return boxes, densities


def simulate_set(config: SimulateConfig, randomised: bool, tomograms: int) -> tuple[list[Array], list[Array]]:
    parts = list(map_items(partial(simulate_one, config, randomised), range(tomograms)))
    return [box for part in parts for box in part[0]], [density for part in parts for density in part[1]]


def radial(box: Array) -> Array:
    """log10 of the radial power spectrum in the band."""
    frequencies, power = radial_power_spectrum(Volume(box, VOXEL_SIZE))
    inside = (frequencies >= 1 / BAND[1] - 1e-9) & (frequencies <= 1 / BAND[0])
    return np.log10(power[inside])


def radial_frequencies() -> Array:
    frequencies, _ = radial_power_spectrum(Volume(np.zeros((BOX,) * 3, np.float32), VOXEL_SIZE))
    return frequencies[(frequencies >= 1 / BAND[1] - 1e-9) & (frequencies <= 1 / BAND[0])]


def angular(box: Array) -> Array:
    """log10 of the power against the angle from the kx axis in the kx-kz plane, between 100 and 30 Å; the wedge is at 90°."""
    k = np.fft.fftfreq(BOX, VOXEL_SIZE)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    ring = (np.hypot(kz, kx) > 1 / 100) & (np.hypot(kz, kx) < 1 / 30) & (np.abs(ky) < 1 / 60)
    angle = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))[ring]
    power = np.abs(np.fft.fftn(box))[ring] ** 2 / box.size
    which = np.digitize(angle, ANGLES) - 1
    return np.asarray(np.log10([power[which == i].mean() for i in range(len(ANGLES) - 1)]))


def histogram(box: Array) -> Array:
    return np.histogram(box, GREY, density=True)[0]


def correlations(boxes: list[Array], densities: list[Array]) -> dict[str, float]:
    """Mean correlation with the clean density: whole box, and between 300 and 40 Å."""
    pairs = list(zip(boxes, densities, strict=True))
    limited = [(band_pass(a, VOXEL_SIZE, 300, 40), band_pass(b, VOXEL_SIZE, 300, 40)) for a, b in pairs]
    whole, band = (float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in items])) for items in (pairs, limited))
    return {"whole": whole, "300_to_40": band}


def compare(real: list[Array], other: list[Array]) -> dict[str, Any]:
    """Distances of the mean curves, and the share of the real particles' values that the other set's range holds."""
    result: dict[str, Any] = {}
    for name, curve in (("radial", radial), ("angular", angular)):
        a, b = (np.array([curve(box) for box in boxes]) for boxes in (real, other))
        low, high = np.percentile(b, [1, 99], axis=0)
        result[name] = {
            "rms_difference_log10": float(np.sqrt(np.mean((a.mean(0) - b.mean(0)) ** 2))),
            "real_within_range": float(((a >= low) & (a <= high)).mean()),
            "mean_within_range": float(((a.mean(0) >= low) & (a.mean(0) <= high)).mean()),
        }
    sample = [np.random.default_rng(SEED).choice(np.concatenate([box.ravel() for box in boxes]), 20_000) for boxes in (real, other)]
    result["grey_values"] = {"kolmogorov_smirnov": float(stats.ks_2samp(*sample).statistic)}
    return result


def draw(sets: dict[str, list[Array]], picture: Path) -> None:
    """One figure: radial spectrum, angular spectrum, grey values."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    places = (radial_frequencies(), (ANGLES[1:] + ANGLES[:-1]) / 2, (GREY[1:] + GREY[:-1]) / 2)
    for axis, x, curve in zip(axes, places, (radial, angular, histogram), strict=True):
        for (name, boxes), colour in zip(sets.items(), ("#d1495b", "#00798c", "#888888"), strict=True):
            values = np.array([curve(box) for box in boxes])
            if name == "randomised":
                axis.fill_between(x, *np.percentile(values, [1, 99], axis=0), color=colour, alpha=0.25, lw=0, label="randomised, 1-99 %")
            else:
                axis.plot(x, values.mean(0), color=colour, label=f"{name} (n = {len(boxes)})")
                axis.fill_between(x, *np.percentile(values, [10, 90], axis=0), color=colour, alpha=0.2, lw=0)
    axes[0].set(xlabel="spatial frequency, 1/Å", ylabel="log10 power", title="radial power spectrum")
    axes[1].set(xlabel="angle from kx in the kx-kz plane, degrees", title="angular power, 100-30 Å")
    # Boxes padded with one value have a far higher peak at 0, which is cut off.
    axes[2].set(xlabel="grey value, standard deviations", title="grey values", ylim=(0, 0.8))
    axes[0].legend(frameon=False)
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tomograms", type=int, default=8)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.exit(2, f"error: {arguments.data} does not exist: give the folder of the real particles with --data\n")
    source = open_particles(arguments.data / "particles.star", PredictConfig(), BOX * VOXEL_SIZE)
    real = [standardise(-source.read(i).data) for i in range(len(source))]
    placed = np.load(arguments.data / "truth.npz", allow_pickle=False)["reference_placed"].astype(np.float32)
    library = {"structures": arguments.library}
    matched, matched_density = simulate_set(MATCHED.model_copy(update=library), False, arguments.tomograms)
    randomised, randomised_density = simulate_set(RANDOMISED.model_copy(update=library), True, 3 * arguments.tomograms)
    draw({"real": real, "matched": matched, "randomised": randomised}, arguments.picture)
    figures: dict[str, Any] = {
        "particles": {"real": len(real), "matched": len(matched), "randomised": len(randomised)},
        "correlation_with_clean_density": {
            "real": correlations(real, list(placed)),
            "matched": correlations(matched, matched_density),
            "randomised": correlations(randomised, randomised_density),
        },
        "real_against_matched": compare(real, matched),
        "real_against_randomised": compare(real, randomised),
        "matched_settings": MATCHED.model_dump(mode="json", include={"specimen", "acquisition"}),
    }
    write_result("real_spectra", SEED, figures, folder=arguments.results)


if __name__ == "__main__":
    main()
