"""Structures that a network has never seen: are they called unknown, segmented, recovered and told apart?

    python benchmarks/novelty.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells near far near_contrastive ...]

Each cell (a fold, with or without the contrastive term of the embedding, and a seed) withholds some of the 18 built-in structures altogether:
its training tomograms do not hold them, not even as neighbours. Over the first three folds every structure is withheld once. The tests are
tomograms of full physics with all structures, at SNR 0.3, 0.1 and 0.03. One JSON per cell: benchmarks/results/novelty/CELL_SEED.json. A cell
whose file exists is skipped, and a training that was stopped goes on.

The share called unknown is given for two thresholds: the model's own, which accepts 95 % of its held-out known particles, and, for each withheld
structure, the one with the best balanced accuracy for the others (`chosen_on_other_structures`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import (
    TEST_SNRS,
    TRAINING_SEED,
    TRAINING_SNR,
    Size,
    make_parser,
    make_test_store,
    missing_cells,
    peak_memory,
    read_arguments,
    read_boxes,
    run_apart,
    simulate_config,
    simulate_once,
)
from recovery import measured_terms, shell_correlations, shell_matrix
from results import write_result
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from triptych.alignment.grouping import group
from triptych.config import NONE_CLASS, AugmentConfig, GroupConfig, LossConfig, NetworkConfig, TrainConfig
from triptych.io.store import Store, known_labels, open_store
from triptych.judging.metrics import density_correlation, intersection_over_union, mean
from triptych.recognition.model import MASK_LEVEL, Model, load_model, traits
from triptych.recognition.network import TaskOutput
from triptych.recognition.novelty import Traits, best_threshold, possible_scores, raw_score, score_novelty
from triptych.simulation.library import load_library

FOLDS = {
    "near": ("ribosome_30s", "groel_groes", "rymv_capsid", "cand1_cul1", "rubisco", "nucleosome"),
    "far": ("ribosome_80s", "groel", "apoferritin", "hsp90_sba1", "spike", "aminopeptidase_a"),
    "mixed": ("ribosome_50s", "ribosome_70s", "proteasome_20s", "tric", "rna_polymerase_2", "hsp110_hsc70"),
    "ribosomes": ("ribosome_30s", "ribosome_50s", "ribosome_70s", "ribosome_80s"),
}
"""Near relatives (30S while 50S and 70S are known, GroEL with its cap while it is known without) and strangers (a capsid, a hollow ball, the
slender CAND1-CUL1; the library has no filament). The last fold leaves out all ribosomes, for real ones (`benchmarks/real_novel.py`)."""
CONTRASTIVE_WEIGHT = 0.1
CELLS = {fold: (fold, 0.0) for fold in FOLDS} | {f"{fold}_contrastive": (fold, CONTRASTIVE_WEIGHT) for fold in ("near", "far", "mixed")}
"""Fold, and weight of the metric-learning term."""
BATCH = 64


def train_config(size: Size, seed: int, contrastive_weight: float) -> TrainConfig:
    return TrainConfig(
        updates=size.updates,
        updates_per_checkpoint=-(-size.updates // 4),
        batch_size=size.batch_size,
        network=NetworkConfig(tasks=("class", "mask", "density"), channels=size.channels, spectrum="kept"),
        augment=AugmentConfig(snr=TRAINING_SNR),
        loss=LossConfig(contrastive_weight=contrastive_weight),
        loader_workers=size.loader_workers,
        seed=seed,
    )


def training_store(work: Path, size: Size, fold: str) -> Path:
    """Tomograms without the structures of a fold; simulated once."""
    names = tuple(structure.name for structure in load_library() if structure.name not in FOLDS[fold])
    config = simulate_config(size, size.particles, TRAINING_SEED, TRAINING_SNR).model_copy(update={"classes": names})
    return simulate_once(work / f"without_{fold}.zarr", config)


def run_batches(model: Model, store: Store) -> tuple[Traits, np.ndarray, dict[str, list[np.ndarray]]]:
    """Traits and probabilities of all rows, and what `judge_maps` needs of each batch."""
    parts, probabilities = [], []
    maps: dict[str, list[np.ndarray]] = {"iou": [], "correlation": [], "fsc_measured": [], "fsc_missing": []}
    for rows in np.array_split(np.arange(len(store)), -(-len(store) // BATCH)):
        out = model.run(read_boxes(store, rows))
        parts.append(traits(out))
        assert out.class_logits is not None
        probabilities.append(model.probabilities(out.class_logits))
        for name, values in judge_maps(store, rows, out).items():
            maps[name].append(values)
    joined = Traits._make(np.concatenate(values) for values in zip(*parts, strict=True))
    return joined, np.concatenate(probabilities), maps


def judge_maps(store: Store, rows: np.ndarray, out: TaskOutput) -> dict[str, np.ndarray]:
    """IoU and density correlation of each particle, and its mean FSC over what was measured and over the missing wedge."""
    assert out.mask_logits is not None
    assert out.density is not None
    iou = intersection_over_union(out.mask_logits.sigmoid().numpy() > MASK_LEVEL, store.read_rows("mask", rows))
    density, truth = out.density.numpy(), store.read_rows("density", rows).astype(np.float32)
    measured = measured_terms(store, rows)
    shells = shell_matrix(store.box_size)
    curves = (shell_correlations(density, truth, kept, shells)[:, 1:] for kept in (measured, 1 - measured))
    in_measured, in_missing = (np.array([mean(curve) for curve in of_each]) for of_each in curves)
    return {"iou": iou, "correlation": density_correlation(density, truth), "fsc_measured": in_measured, "fsc_missing": in_missing}


def judge_scores(model: Model, found: Traits, novel: np.ndarray, name: np.ndarray) -> dict[str, Any]:
    """Of every score: AUROC, for each withheld structure too, and the shares called unknown by thresholds chosen on the others."""
    assert model.novelty is not None
    result: dict[str, Any] = {}
    for score in possible_scores(found):
        values = raw_score(model.novelty, found, score)
        apart = {structure: values[novel & (name == structure)] for structure in np.unique(name[novel])}
        by_structure = {key: roc_auc_score(np.repeat([0, 1], [(~novel).sum(), len(own)]), [*values[~novel], *own]) for key, own in apart.items()}
        result[score] = {
            "auroc": roc_auc_score(novel, values),
            "auroc_of_structures": by_structure,
            "chosen_on_other_structures": leave_one_out(values[~novel], apart) if len(apart) > 1 else None,
        }
    return result


def leave_one_out(known: np.ndarray, novel: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean shares called unknown, of each structure and of the known, by the threshold that is best for the other structures."""
    right, wrong = [], []
    for structure, values in novel.items():
        threshold = best_threshold(known, np.concatenate([others for name, others in novel.items() if name != structure]))
        right.append(np.mean(values >= threshold))
        wrong.append(np.mean(known >= threshold))
    return {"share_of_withheld": float(np.mean(right)), "share_of_known": float(np.mean(wrong))}


def judge_groups(model: Model, found: Traits, novel: np.ndarray, name: np.ndarray) -> dict[str, Any]:
    """How well groups of the withheld particles' embeddings agree with their structures, with and without whitening."""
    embedding, truth = found.embedding[novel], name[novel]
    result = {}
    for key, reference in (("whitened", model.novelty), ("plain", None)):
        groups = group(embedding, np.random.default_rng(0), GroupConfig(), reference, shape=found.shape[novel])
        inside = groups.labels >= 0
        result[key] = {
            "groups": groups.count,
            "adjusted_rand_index": adjusted_rand_score(truth, groups.labels),
            "of_grouped_particles": adjusted_rand_score(truth[inside], groups.labels[inside]) if inside.any() else None,
            "share_in_no_group": float(1 - inside.mean()),
            "stability": groups.stability.tolist(),
        }
    return result


def run_test(model: Model, store: Store, withheld: Sequence[str]) -> dict[str, Any]:
    """All figures of one test set."""
    found, probabilities, maps = run_batches(model, store)
    label = known_labels(store, model.card.class_names)
    novel, name = label < 0, np.array(store.class_names)[np.asarray(store["label"][:])]
    assert set(name[novel]) <= set(withheld)
    assert model.novelty is not None
    unknown = score_novelty(model.novelty, found) >= 0.5
    present = name != NONE_CLASS
    groups = {"known": ~novel & present, "withheld": novel, **{structure: name == structure for structure in np.unique(name[novel])}}
    of_groups = {key: {kind: float(np.nanmean(np.concatenate(values)[rows])) for kind, values in maps.items()} for key, rows in groups.items()}
    return {
        "particles": {"known": int((~novel).sum()), "withheld": int(novel.sum())},
        "accuracy_of_known": float((probabilities.argmax(1) == label)[~novel].mean()),
        "share_called_unknown": {"known": float(unknown[~novel].mean()), "withheld": float(unknown[novel].mean())},
        "scores": judge_scores(model, found, novel, name),
        "maps": of_groups,
        "groups": judge_groups(model, found, novel, name),
    }


def run_cell(work: Path, size: Size, cell: str, seed: int, results: Path) -> None:
    from triptych.stages.train import train  # takes seconds, which the loader processes would take too, as they import this file

    fold, contrastive_weight = CELLS[cell]
    config = train_config(size, seed, contrastive_weight)
    folder = work / f"model_without_{cell}_{seed}"
    started = time.perf_counter()
    stopped, done = folder.with_name(f"{folder.name}.training").exists(), folder.exists()
    if not done:
        train(training_store(work, size, fold), folder, config, resume=stopped)
    seconds = time.perf_counter() - started
    model = load_model(folder)
    assert model.novelty is not None
    figures = {
        "cell": cell,
        "particles": size.particles,
        "test_particles": size.test_particles,
        "withheld": FOLDS[fold],
        "config": config.model_dump(mode="json"),
        "rule": model.describe()["novelty"],
        "tests": {f"{snr:g}": run_test(model, open_store(make_test_store(work, size, snr)), FOLDS[fold]) for snr in TEST_SNRS},
        "training_seconds": None if stopped or done else round(seconds, 1),
        "memory": peak_memory(),
    }
    write_result(f"novelty/{cell}_{seed}", seed, figures, model, results)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(FOLDS))
    arguments, size = read_arguments(parser)
    for seed, cell in missing_cells(arguments, "novelty"):
        for snr in TEST_SNRS:
            make_test_store(arguments.work, size, snr)
        training_store(arguments.work, size, CELLS[cell][0])
        run_apart(run_cell, arguments.work, size, cell, seed, arguments.results)


if __name__ == "__main__":
    main()
