"""Structures that the shipped model was never shown, among others that it knows: found, grouped, averaged, named, and learned.

    python benchmarks/discovery.py WORK [--snr 0.1] [--particles 100] [--model FOLDER] [--seed N] [--picture docs/images/discovery.png]

The unknown ones are parts of entries whose whole the model knows, which is harder than strangers would be: the subunits of the eukaryotic
ribosome, one ring of GroEL with its cap, of TRiC and of the proteasome, and one protomer of the spike. Their files are those of
../shared/data/structures. A mixture of twelve known structures and these six is simulated with full physics, predicted, oriented (by the side
of particles of the 18 built-in structures, simulated anew, which are what they are called), and discovered as a user would do it; averages are
compared with a library of all built-in structures and the six. Then new classes are added from few of their particles, whose names are taken
from the truth, and tried on the others (`add-class` without grouping).
Each step is kept in WORK, and what is there is not made again. Writes benchmarks/results/discovery_SNR.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from alignment import MASK_REACH
from cells import peak_memory, timed
from numpy.typing import NDArray
from results import FOLDER, write_result
from scipy.spatial.transform import Rotation
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from triptych.alignment.align import Alignment, align, average
from triptych.alignment.rotations import angular_errors
from triptych.alignment.symmetry import find_symmetry
from triptych.config import UNKNOWN, AlignConfig, DiscoverConfig, OrientConfig, PredictConfig, SimulateConfig
from triptych.fourier import fourier_shell_correlation, resample_to_box, resolution_at, wedge_weights
from triptych.io.mrc import read_mrc
from triptych.io.predictions import Predicted, read_predictions
from triptych.io.relion_particles import particles_from_relion
from triptych.io.star import read_star
from triptych.io.store import Store, open_store
from triptych.io.transfers import stored_transfers
from triptych.judging.metrics import median
from triptych.recognition.density_shape import describe_shapes
from triptych.recognition.model import BUILT_IN_MODEL, Model, load_model
from triptych.recognition.novelty import Traits, give_verdicts, score_novelty
from triptych.simulation.library import load_library, write_library
from triptych.simulation.structures import Structure, read_structure
from triptych.stages.add_class import Newcomer, grow
from triptych.stages.discover import discover
from triptych.stages.orient import orient
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.volume import soften, standardise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures"
KNOWN = (
    *("ribosome_70s", "ribosome_80s", "ribosome_50s", "ribosome_30s", "proteasome_20s", "tric"),
    *("groel", "groel_groes", "apoferritin", "rna_polymerase_2", "spike", "aminopeptidase_a"),
)
PARTS = {
    "ribosome_60s": ("6zu5.cif.gz", "L*"),
    "ribosome_40s": ("6zu5.cif.gz", "S*"),
    "groel_groes_ring": ("1aon.pdb.gz", "ABCDEFGOPQRSTU"),
    "tric_ring": ("4v8r.pdb.gz", ("AA", "AB", "AD", "AE", "AG", "AH", "AQ", "AZ")),
    "proteasome_half": ("3j9i.pdb.gz", "ABCDEFGHIJKLMN"),
    "spike_protomer": ("6xlu.cif.gz", "A"),
}
"""Unknown structures: file, and chains; L* are all whose names begin with L."""
RINGS: dict[str, tuple[int, tuple[float, float, float] | None]] = {
    "groel_groes_ring": (7, (0, 0, 1)),
    "tric_ring": (8, None),
    "proteasome_half": (7, None),
}
"""Subunits of their rings (those of TRiC differ, but not at 10 Å per voxel), and the axis in the file; None: a principal axis of inertia."""
KNOWN_PARTICLES = 720
JUDGING = OrientConfig(write_masks=False, write_densities=False, workers=0)
"""What `orient` needs not do for its second opinion."""
EXAMPLES, DRAWS = (5, 20), 5
"""Particles that a class is added from, and how often they are drawn."""


class Mixture(NamedTuple):
    """What was simulated, and what was said of it.

    Attributes
    ----------
    name : (n,), true class of each particle
    new : (n,), whether the model has never seen it
    poses : folder that `orient` wrote of them
    novelty, unknown : (n,), with the second opinion of `orient`
    """

    store: Store
    given: Predicted
    name: NDArray[np.str_]
    new: NDArray[np.bool_]
    poses: Path
    novelty: NDArray[np.float64]
    unknown: NDArray[np.bool_]


# ------------------------------------------------------------------------------------------------------------------ data


def read_part(name: str, voxel_size: float = 10.0) -> Structure:
    """An unknown structure, from some chains of a file."""
    file, chains = PARTS[name]
    if isinstance(chains, str) and chains.endswith("*"):
        chains = chains_beginning(DATA / file, chains[0])
    return read_structure(DATA / file, name, voxel_size, assembly="none", chains=tuple(chains))


def chains_beginning(path: Path, letter: str) -> tuple[str, ...]:
    import gemmi

    return tuple(chain.name for chain in gemmi.read_structure(str(path))[0] if chain.name.startswith(letter))


def make_references(work: Path) -> Path:
    """A library of the built-in structures and the unknown ones."""
    folder = work / "references"
    if not folder.exists():
        write_library([*load_library(), *(read_part(name) for name in PARTS)], folder)
    return folder


def orient_known(work: Path, snr: float, seed: int, model: Path) -> Path:
    """Poses of simulated particles of the built-in structures, by which others are judged."""
    store, predictions, poses = (work / f"{kind}_{snr:g}" for kind in ("known", "predictions_known", "poses_known"))
    if not store.exists():
        settings = SimulateConfig(particles=KNOWN_PARTICLES, none_share=0.0, tile_share=0.0, snr=(snr, snr), seed=seed + 1)
        simulate(store, settings)
    timed(predictions, lambda: predict(store, predictions, model, PredictConfig(write_masks=False)))
    timed(poses, lambda: orient(predictions, poses, JUDGING.model_copy(update={"unknown": True})))
    return poses


def prepare(work: Path, particles: int, snr: float, seed: int, model: Path) -> tuple[Mixture, dict[str, float]]:
    """The mixture, predicted and oriented, and the seconds that this took."""
    classes = (*KNOWN, *PARTS)
    store, predictions = work / f"mixture_{snr:g}.zarr", work / f"predictions_{snr:g}"
    if not store.exists():
        settings = SimulateConfig(structures=make_references(work), classes=classes, particles=particles * len(classes), seed=seed)
        simulate(store, settings.model_copy(update={"none_share": 0.0, "tile_share": 0.0, "snr": (snr, snr)}))
    seconds = {"predict": timed(predictions, lambda: predict(store, predictions, model, PredictConfig(write_masks=False)))}
    known, poses = orient_known(work, snr, seed, model), work / f"poses_{snr:g}"
    seconds["orient"] = timed(poses, lambda: orient(predictions, poses, JUDGING.model_copy(update={"known": known})))
    data, given = open_store(store), read_predictions(predictions)
    assert given.novelty is not None
    assert given.verdicts is not None
    judged = pd.DataFrame(read_star(poses / "particles.star")["particles"]).set_index("triptychName")
    novelty = np.maximum(given.novelty, judged["triptychNovelty"].reindex(given.names).fillna(0).to_numpy(np.float64))
    doubted = judged["triptychVerdict"].reindex(given.names).to_numpy() == UNKNOWN
    name = np.array(data.class_names)[data["label"][:]]
    unknown = doubted | (np.array(given.verdicts) == UNKNOWN)
    return Mixture(data, given, name, np.isin(name, list(PARTS)), poses, novelty, unknown), seconds


# ----------------------------------------------------------------------------------------------------- found and grouped


def judge_novelty(mixture: Mixture, novelty: NDArray[np.float64], unknown: NDArray[np.bool_]) -> dict[str, Any]:
    """AUROC of a novelty, and the share of each structure that is called unknown."""
    known = novelty[~mixture.new]
    of_each = {}
    for name in (*KNOWN, *PARTS):
        own = mixture.name == name
        values = novelty[own]
        auroc = roc_auc_score(np.repeat([0, 1], [len(known), len(values)]), [*known, *values]) if name in PARTS else None
        of_each[name] = {"called_unknown": float(unknown[own].mean()), "auroc": auroc}
    return {
        "auroc": roc_auc_score(mixture.new, novelty),
        "new_called_unknown": float(unknown[mixture.new].mean()),
        "known_called_unknown": float(unknown[~mixture.new].mean()),
        "structures": of_each,
    }


def judge_groups(mixture: Mixture, membership: NDArray[np.int64]) -> dict[str, Any]:
    """How well the groups of what was called unknown agree with the true structures; 0 is no group, and counts as one more."""
    unknown = mixture.unknown
    new, grouped = unknown & mixture.new, membership > 0
    return {
        "groups": int(membership.max()),
        "called_unknown": int(unknown.sum()),
        "grouped": int(grouped.sum()),
        "ari_of_all_called_unknown": adjusted_rand_score(mixture.name[unknown], membership[unknown]),
        "ari_of_new_called_unknown": adjusted_rand_score(mixture.name[new], membership[new]),
        "ari_of_new_grouped": adjusted_rand_score(mixture.name[mixture.new & grouped], membership[mixture.new & grouped]),
    }


# ------------------------------------------------------------------------------------------------------------- averaged


def judge_average(mixture: Mixture, folder: Path, membership: NDArray[np.int64], structures: dict[str, Structure]) -> dict[str, Any]:
    """A group beside the structure that most of its particles are of: purity, resolutions, poses, and what it was taken for."""
    about = json.loads((folder / "group.json").read_text())
    rows = np.flatnonzero(membership == about["group"])
    names, counts = np.unique(mixture.name[rows], return_counts=True)
    name, own = str(names[counts.argmax()]), rows[mixture.name[rows] == names[counts.argmax()]]
    density = read_mrc(folder / "average.mrc")
    size, voxel_size = density.shape[0], density.voxel_size
    structure = resample_to_box(structures[name].density, voxel_size, size, fill=0)
    mask = soften(structure > structures[name].contour, voxel_size, MASK_REACH, MASK_REACH)
    turned = align(read_mrc(folder / "average_filtered.mrc").data[None], structure, voxel_size, AlignConfig(), mask=mask)
    placed, _ = average(density.data[None], turned, voxel_size, config=AlignConfig(resolution=2 * voxel_size))
    frequencies, correlation = fourier_shell_correlation(placed * mask, structure * mask, voxel_size)
    symmetries = find_symmetry(structure, voxel_size)
    group = turns_of_ring(structure, *RINGS[name]) if name in RINGS else symmetries[0].rotations if symmetries else None
    table = particles_from_relion(folder / "particles.star")
    assert table.rotations is not None
    mine = np.isin(rows, own)
    store = mixture.store
    truth = np.asarray(store["rotation"][:], np.float64)[own]
    errors = angular_errors(table.rotations[mine] @ turned.rotations[0], truth, group)
    return {
        "group": about["group"],
        "structure": name,
        "new": name in PARTS,
        "particles": len(rows),
        "purity": float(counts.max() / len(rows)),
        "share_of_structure": float(len(own) / (mixture.name == name).sum()),
        "junk": about["junk"],
        "stability": about["stability"],
        "half_set_resolution": about["resolution"],
        "resolution": resolution_at(frequencies, correlation, 0.5),
        "fsc": correlation.tolist(),
        "resolution_in_true_poses": resolution_in_true_poses(store, own, structure, mask),
        "resolution_of_all_in_true_poses": resolution_in_true_poses(store, np.flatnonzero(mixture.name == name), structure, mask),
        "median_angular_error": median(errors),
        "share_within_10_degrees": float((errors < 10).mean()),
        "matches": [match["name"] for match in about["matches"]],
    }


def resolution_in_true_poses(store: Store, rows: NDArray[np.int64], structure: NDArray[np.float32], mask: NDArray[np.float32]) -> float:
    """FSC 0.5 with the structure that an average of some particles would reach if nothing of their poses were left to find."""
    size, voxel_size, transfers = store.box_size, store.voxel_size, stored_transfers(store)
    assert transfers is not None
    limits = zip(store["tilt_min"][:][rows], store["tilt_max"][:][rows], strict=True)
    wedges = np.stack([wedge_weights((size,) * 3, float(low), float(high)) for low, high in limits])
    wedges *= np.stack([transfers.of(int(row), size, voxel_size) for row in rows])
    rotations, shifts = (np.asarray(store[name][:], np.float64)[rows] for name in ("rotation", "shift"))
    truth = Alignment(rotations, shifts, np.ones(len(rows), np.float32))
    best, _ = average(standardise(store.read_rows("subtomogram", rows).astype(np.float32)), truth, voxel_size, wedges)
    return resolution_at(*fourier_shell_correlation(best * mask, structure * mask, voxel_size), 0.5)


def turns_of_ring(structure: NDArray[np.float32], fold: int, axis: tuple[float, float, float] | None) -> NDArray[np.float64]:
    """Rotations (fold, 3, 3) about the axis of a ring; None: that of the moment of inertia which differs from the other two."""
    if axis is None:
        z, y, x = np.indices(structure.shape) - structure.shape[0] // 2
        inside = np.clip(structure, 0, None).ravel()
        moments, axes = np.linalg.eigh(np.cov(np.stack([x.ravel(), y.ravel(), z.ravel()]), aweights=inside))
        axis = tuple(axes[:, 0] if moments[1] - moments[0] > moments[2] - moments[1] else axes[:, 2])
    return np.asarray(Rotation.from_rotvec(np.outer(np.arange(fold) * 2 * np.pi / fold, np.array(axis))).as_matrix())


def draw_averages(folders: list[Path], judged: list[dict[str, Any]], structures: dict[str, Structure], picture: Path) -> None:
    """Slices through the middle of each group's average, of its mean recovered density, and of the structure turned as they are."""
    figure, axes = plt.subplots(3, len(folders), figsize=(1.6 * len(folders), 5.2), layout="constrained", squeeze=False)
    for column, folder, group in zip(axes.T, folders, judged, strict=True):
        density, recovered = read_mrc(folder / "average_filtered.mrc"), read_mrc(folder / "recovered.mrc")
        structure = resample_to_box(structures[group["structure"]].density, density.voxel_size, density.shape[0], fill=0)
        turned = align(structure[None], density.data, density.voxel_size, AlignConfig())
        placed, _ = average(structure[None], turned, density.voxel_size, config=AlignConfig(resolution=2 * density.voxel_size))
        for axis, box in zip(column, (density.data, recovered.data, placed), strict=True):
            axis.imshow(box[len(box) // 2], cmap="gray", origin="lower")
            axis.set(xticks=[], yticks=[])
        column[0].set_title(f"{group['structure']}\n{group['particles']} particles", fontsize=7)
    for axis, title in zip(axes[:, 0], ("average", "recovered", "structure"), strict=True):
        axis.set_ylabel(title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80)


# -------------------------------------------------------------------------------------------------------------- learned


def judge_learning(mixture: Mixture, model_folder: Path, seed: int) -> list[dict[str, Any]]:
    """Classes added from few particles each: accuracy of the others, and of what was known, before and after."""
    model = load_model(model_folder)
    found = Traits(np.asarray(mixture.given.embedding), logits_of(model, mixture.given.embedding), shapes(mixture.given))
    before = name_particles(model, found)
    old = ~mixture.new
    results = []
    for count in EXAMPLES:
        for draw in range(DRAWS):
            rng = np.random.default_rng((seed, count, draw))
            chosen = {name: rng.choice(np.flatnonzero(mixture.name == name), count, replace=False) for name in PARTS}
            grown = grow(model, [Newcomer(name, found.embedding[rows], found.shape[rows]) for name, rows in chosen.items()], model_folder)
            called, verdicts = name_particles(grown, found._replace(logits=logits_of(grown, found.embedding)))
            rest = mixture.new.copy()
            rest[np.concatenate(list(chosen.values()))] = False
            results.append(
                {
                    "examples": count,
                    "draw": draw,
                    "new": float((called[rest] == mixture.name[rest]).mean()),
                    "new_verdicts": float((verdicts[rest] == mixture.name[rest]).mean()),
                    "old": float((called[old] == mixture.name[old]).mean()),
                    "old_verdicts": float((verdicts[old] == mixture.name[old]).mean()),
                    "old_before": float((before[0][old] == mixture.name[old]).mean()),
                    "old_verdicts_before": float((before[1][old] == mixture.name[old]).mean()),
                }
            )
    return results


@torch.inference_mode()
def logits_of(model: Model, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """The class head alone, of embeddings that are there already: only it changes where a class is added."""
    logits: NDArray[np.float32] = model.network.classify.float()(torch.from_numpy(np.array(embedding, np.float32))).numpy()
    return logits


def shapes(given: Predicted) -> NDArray[np.float32]:
    assert given.densities is not None
    return np.concatenate([describe_shapes(read_mrc(path).data[None]) for path in given.densities])


def name_particles(model: Model, found: Traits) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Best class of each particle, and the verdict, which may be that it is unknown."""
    assert model.novelty is not None
    called = np.array(model.card.class_names)[found.logits.argmax(1)]
    return called, np.array(give_verdicts(list(called), score_novelty(model.novelty, found)))


# ----------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data, predictions and groups")
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--particles", type=int, default=100, help="of each structure, about")
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--picture", type=Path, help="PNG file of the averages")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the structures are not at {DATA}: this benchmark needs them")
    work, snr = arguments.work, arguments.snr
    mixture, seconds = prepare(work, arguments.particles, snr, arguments.seed, arguments.model)
    folder = work / f"discovery_{snr:g}"
    config = DiscoverConfig(library=make_references(work), seed=arguments.seed, poses=mixture.poses, workers=0)
    seconds["discover"] = timed(folder, lambda: discover(work / f"predictions_{snr:g}", folder, config))
    membership = read_star(folder / "particles.star")["particles"]["triptychGroup"].to_numpy(np.int64)
    structures = {structure.name: structure for structure in load_library(make_references(work))}
    groups = sorted((folder / "groups").iterdir(), key=lambda path: int(path.name))
    judged = [judge_average(mixture, path, membership, structures) for path in groups]
    if arguments.picture:
        draw_averages(groups, judged, structures, arguments.picture)
    figures = {
        "snr": snr,
        "particles": len(mixture.given),
        "known": KNOWN,
        "new": tuple(PARTS),
        "seconds": seconds,
        "peak_memory_mb": peak_memory(),
        "novelty": judge_novelty(mixture, np.asarray(mixture.given.novelty), np.array(mixture.given.verdicts) == UNKNOWN),
        "second_opinion": judge_novelty(mixture, mixture.novelty, mixture.unknown),
        "groups": judge_groups(mixture, membership),
        "averages": judged,
        "learning": judge_learning(mixture, arguments.model, arguments.seed),
    }
    write_result(f"discovery_{snr:g}", arguments.seed, figures, load_model(arguments.model), arguments.results)


if __name__ == "__main__":
    main()
