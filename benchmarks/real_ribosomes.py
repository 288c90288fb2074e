"""The shipped model on 20 real 70S ribosomes, with negative controls; writes benchmarks/results/real_ribosomes.json.

    python benchmarks/real_ribosomes.py [--data FOLDER] [--model FOLDER] [--half-turns]

FOLDER holds particles.star, subtomograms/ and truth.npz (see docs/real_data.md). The model was trained on simulations only.
Every control has the grey values of the real particles, and none of them may be called what the particles are called with the
same confidence:

* inverted: the same volumes with the other sign, the setting unchanged
* scrambled: noise with each volume's own power spectrum (random Fourier phases)
* away: the box moved 150 Å off the particle in a random direction; what is beyond the data is the mean
* rolled: the box rolled by half its side along all axes, so that the particle lies in the corners

Each is named by itself, and once more with the class shares estimated from all that were given together (`predict --set class_shares=estimated`):
the twenty or a control, and all of them in one list.

Where the folder of their tilt images (ribosome_70s_tilt_stacks) lies beside FOLDER, so are the particles that triptych reconstructs of them, and
those without deconvolution as `predict --set deconvolve=multiplied` treats them, at the mean defocus of their tilts, with controls made of them, and
as if they were untreated. Multiplied is what they are: back-projections of images that had been multiplied by their CTF.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import FOLDER, write_result

from triptych.alignment.identify import mirror
from triptych.config import UNKNOWN, Contrast, CtfCorrection, PredictConfig
from triptych.io.relion import read_relion
from triptych.io.source import open_particles
from triptych.io.tomogram_names import bare_tomogram_name
from triptych.io.transfers import stated_ctf
from triptych.recognition.model import BUILT_IN_MODEL, Model, Predictions, load_model
from triptych.volume import Volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ribosome_70s_real"
OUT_OF_REACH = 150.0
SEED = 0


def read_all(folder: Path) -> list[Volume]:
    """The particles of a folder, as `triptych predict` reads them."""
    source = open_particles(folder / "particles.star", PredictConfig(), 400.0)
    return [source.read(i) for i in range(len(source))]


def not_deconvolved(folder: Path, voxel_size: float) -> list[Volume]:
    """The same particles without deconvolution: their images were multiplied by their CTF, thus CTF^2 is in them, and protein is bright."""
    truth = np.load(folder / "truth.npz", allow_pickle=False)
    return [Volume(data.astype(np.float32), voxel_size) for data in truth["subtomograms_not_deconvolved"]]


def deconvolve_all(volumes: list[Volume], folder: Path, stacks: Path, correction: CtfCorrection) -> list[Volume]:
    """Volumes that belong to the particles of a folder, so treated, deconvolved at the defocus that the table of their tilt images states."""
    stated = read_relion(stacks / "particles.star")
    ctf = stated_ctf(stated)
    assert ctf is not None
    defocus = {bare_tomogram_name(name): value for name, value in zip(stated.tomogram_names or [], ctf.defocus, strict=True)}
    names = read_relion(folder / "particles.star").tomogram_names or []
    ctf = replace(ctf, defocus=np.array([defocus[bare_tomogram_name(name)] for name in names]), correction=[correction] * len(names))
    return [ctf.deconvolve(row, volume) for row, volume in enumerate(volumes)]


def scramble(data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of the same power spectrum."""
    white = np.fft.rfftn(rng.normal(size=data.shape))
    return np.fft.irfftn(np.abs(np.fft.rfftn(data)) * white / np.abs(white), s=data.shape, axes=(0, 1, 2)).astype(np.float32)


def move(data: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The box moved by whole voxels; what is beyond the data becomes their mean."""
    moved = np.full_like(data, data.mean())
    to = tuple(slice(max(-s, 0), min(n - s, n)) for s, n in zip(steps, data.shape, strict=True))
    of = tuple(slice(max(s, 0), min(n + s, n)) for s, n in zip(steps, data.shape, strict=True))
    moved[to] = data[of]
    return moved


def make_controls(volumes: list[Volume], rng: np.random.Generator) -> dict[str, list[Volume]]:
    """Copies of the particles that are no particles."""
    away = rng.normal(size=(len(volumes), 3))
    away *= OUT_OF_REACH / np.linalg.norm(away, axis=1, keepdims=True)
    return {
        "inverted": [v.with_data(-v.data) for v in volumes],
        "scrambled": [v.with_data(scramble(v.data, rng)) for v in volumes],
        "away": [v.with_data(move(v.data, np.round(a / v.voxel_size).astype(int))) for v, a in zip(volumes, away, strict=True)],
        "rolled": [v.with_data(np.roll(v.data, [n // 2 for n in v.shape], (0, 1, 2))) for v in volumes],
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def own_and_other(volumes: list[np.ndarray], references: np.ndarray) -> dict[str, float]:
    """Mean correlation over the whole box with the reference in the particle's own pose, and in the other particles' poses."""
    table = np.array([[correlation(v, r) for r in references] for v in volumes])
    own = np.eye(len(table), dtype=bool)
    return {"own_pose": float(table[own].mean()), "other_poses": float(table[~own].mean()), "own_pose_sd": float(table[own].std())}


def describe(model: Model, volumes: list[Volume], half_turns: bool, contrast: Contrast = "dark") -> tuple[dict[str, object], Predictions]:
    """Classes and probabilities of some volumes, by themselves and with the class shares that all of them suggest."""
    result = model.predict(volumes, contrast=contrast, half_turns=half_turns)
    assert result.masks is not None
    about = {"mean_mask_voxels": float(np.mean([(m > 0.5).sum() for m in result.masks]))}
    return {**describe_names(result), **about, "estimated_shares": describe_names(with_estimated_shares(model, result))}, result


def describe_names(result: Predictions) -> dict[str, object]:
    assert result.probabilities is not None
    ribosomes = [i for i, name in enumerate(result.class_names) if name.startswith("ribosome")]
    return {
        "classes": dict(Counter(result.classes).most_common()),
        "mean_probability_of_class": float(result.probabilities.max(1).mean()),
        "share_called_ribosome": float(np.mean([name.startswith("ribosome") for name in result.classes])),
        "share_called_70s": float(np.mean([name == "ribosome_70s" for name in result.classes])),
        "mean_probability_70s": float(result.probabilities[:, result.class_names.index("ribosome_70s")].mean()),
        "mean_probability_ribosome": float(result.probabilities[:, ribosomes].sum(1).mean()),
        "mean_probability_none": float(result.probabilities[:, result.class_names.index("none")].mean()),
        "share_unknown": float(np.mean([verdict == UNKNOWN for verdict in result.verdicts])),
    }


def with_estimated_shares(model: Model, result: Predictions) -> Predictions:
    return model.reweigh(result, model.estimate_shares(result))


def describe_one_list(model: Model, results: list[Predictions]) -> dict[str, object]:
    """Of the particles and all their controls in one list: what the particles, the first of the results, and what the controls are called."""
    kinds = [{"probabilities": item.probabilities, "embedding": item.embedding, "novelty_by_class": item.novelty_by_class} for item in results]
    arrays: dict[str, Any] = {key: np.concatenate([kind[key] for kind in kinds]) for key in kinds[0]}
    joined = replace(results[0], masks=None, densities=None, **arrays)
    named = np.array([name.startswith("ribosome") for name in with_estimated_shares(model, joined).classes])
    own = len(results[0].embedding)
    return {"share_called_ribosome": float(named[:own].mean()), "share_of_controls_called_ribosome": float(named[own:].mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--half-turns", action="store_true")
    parser.add_argument("--name", default="real_ribosomes", help="of the result file")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.exit(2, f"error: {arguments.data} does not exist: give the folder of the real particles with --data\n")
    model = load_model(arguments.model)
    volumes = read_all(arguments.data)
    truth = np.load(arguments.data / "truth.npz", allow_pickle=False)
    references = truth["reference_placed"].astype(np.float64)

    mirrored = [volume.with_data(np.ascontiguousarray(mirror(volume.data))) for volume in volumes]
    right_hand, found = describe(model, mirrored, arguments.half_turns)
    right_hand["correlation_recovered"] = own_and_other(found.densities or [], mirror(references))
    figures, of_particles = describe(model, volumes, arguments.half_turns)
    figures["correlation_recovered"] = own_and_other(of_particles.densities or [], references)
    figures["correlation_input"] = own_and_other([-v.data for v in volumes], references)
    multiplied = not_deconvolved(arguments.data, volumes[0].voxel_size)
    plain, found = describe(model, multiplied, arguments.half_turns, "bright")
    plain["correlation_recovered"] = own_and_other(found.densities or [], references)
    stacks = arguments.data.parent / "ribosome_70s_tilt_stacks"
    undone = mistaken = None
    if stacks.is_dir():
        deconvolved = deconvolve_all(multiplied, arguments.data, stacks, "multiply")
        undone, found = describe(model, deconvolved, arguments.half_turns, "bright")
        undone["correlation_recovered"] = own_and_other(found.densities or [], references)
        undone["half_turns"] = describe(model, deconvolved, True, "bright")[0]
        negatives = make_controls(deconvolved, np.random.default_rng(SEED))
        undone["controls"] = {name: describe(model, items, arguments.half_turns, "bright")[0] for name, items in negatives.items()}
        mistaken, found = describe(model, deconvolve_all(multiplied, arguments.data, stacks, "none"), arguments.half_turns, "bright")
        mistaken["correlation_recovered"] = own_and_other(found.densities or [], references)
    from_stacks = describe(model, read_all(stacks), arguments.half_turns, "bright")[0] if stacks.is_dir() else None
    negatives = make_controls(volumes, np.random.default_rng(SEED))
    controls = {name: describe(model, items, arguments.half_turns) for name, items in negatives.items()}
    about = {"particles": len(volumes), "half_turns": arguments.half_turns}
    tests: dict[str, object] = {"real": figures, "real_mirrored": right_hand, "real_not_deconvolved": plain}
    tests |= {"real_deconvolved_here": undone, "real_deconvolved_as_untreated": mistaken, "real_from_tilt_images": from_stacks}
    turned = {name: describe(model, items, True)[0] for name, items in {"real": volumes, **negatives}.items()}
    tests["real_half_turns"] = {**turned.pop("real"), "controls": turned}
    tests["one_list"] = describe_one_list(model, [of_particles, *(found for _, found in controls.values())])
    tests["controls"] = {name: described for name, (described, _) in controls.items()}
    write_result(arguments.name, SEED, {**about, **tests}, model, arguments.results)


if __name__ == "__main__":
    main()
