"""Real ribosomes (../shared/data/ribosome_70s_real) and a network that was never shown any: called unknown, grouped, averaged?

    python benchmarks/novelty.py WORK --seeds 0 --cells ribosomes
    python benchmarks/real_novel.py WORK [--seed 0]

The network is that of novelty.py whose training tomograms hold no ribosome. The twenty particles, mirrored since their tomograms have the wrong
hand (docs/real_data.md), are judged beside the negative controls of real_ribosomes.py: which are called unknown, which "none"; does `group` find the
ribosomes among all that is called unknown, and among all hundred; and what do the twenty average to without any reference, as `discover` does it?
Poses and the resolution of the average are judged as in real_poses.py. Writes benchmarks/results/real_novel.json.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from real_poses import CONFIG, judge, mirrored_poses, onto, wedge
from real_ribosomes import DATA, SEED, make_controls, own_and_other, read_all
from results import FOLDER, write_result
from sklearn.metrics import roc_auc_score

from triptych.alignment.align import align, consensus
from triptych.alignment.grouping import group
from triptych.alignment.identify import mirror
from triptych.config import NONE_CLASS, UNKNOWN, GroupConfig
from triptych.io.mrc import read_mrc
from triptych.recognition.density_shape import describe_shapes
from triptych.recognition.model import Model, Predictions, load_model
from triptych.volume import Volume, standardise

REAL = "real"
SMALLEST = 5
"""Particles of a group, of the twenty."""


def predict_all(model: Model, kinds: dict[str, list[Volume]]) -> dict[str, Predictions]:
    return {kind: model.predict(volumes, contrast="dark") for kind, volumes in kinds.items()}


def shares(found: Predictions) -> dict[str, Any]:
    """What particles of one kind are called."""
    assert found.novelty is not None
    verdicts = Counter(found.verdicts)
    return {
        "classes": dict(Counter(found.classes).most_common()),
        "share_unknown": verdicts[UNKNOWN] / len(found.verdicts),
        "share_none": verdicts[NONE_CLASS] / len(found.verdicts),
        "median_novelty": float(np.median(found.novelty)),
    }


def judge_groups(model: Model, found: dict[str, Predictions], only_unknown: bool) -> dict[str, Any]:
    """The group that holds most of the ribosomes, among all particles and controls or those of them that are called unknown."""
    kind = np.concatenate([np.full(len(own.verdicts), name) for name, own in found.items()])
    verdict = np.concatenate([own.verdicts for own in found.values()])
    embedding = np.concatenate([own.embedding for own in found.values()])
    densities = np.stack([density for own in found.values() for density in own.densities or []])
    rows = verdict == UNKNOWN if only_unknown else np.ones(len(kind), dtype=bool)
    about = {"particles": int(rows.sum()), "ribosomes": int((kind[rows] == REAL).sum())}
    if rows.sum() < SMALLEST:
        return {**about, "groups": 0, "ribosomes_in_best": 0, "others_in_best": 0}
    config = GroupConfig(smallest=SMALLEST)
    groups = group(embedding[rows], np.random.default_rng(0), config, model.novelty, shape=describe_shapes(densities[rows]))
    inside = [(kind[rows] == REAL)[groups.labels == k] for k in range(groups.count)]
    best = max(inside, key=lambda members: int(members.sum()), default=np.zeros(0, bool))
    return {**about, "groups": groups.count, "ribosomes_in_best": int(best.sum()), "others_in_best": int((~best).sum())}


def judge_average(volumes: list[Volume], recovered: np.ndarray, seed: int) -> dict[str, Any]:
    """Poses without a reference, through the recovered densities, then refined by the subtomograms."""
    voxel_size = volumes[0].voxel_size
    boxes = np.stack([standardise(-volume.data) for volume in volumes])
    reference = read_mrc(DATA / "reference.mrc").data
    truth = mirrored_poses(np.load(DATA / "truth.npz", allow_pickle=False)["pose_matrix"].astype(np.float64))
    density, poses = consensus(recovered, voxel_size, np.random.default_rng(seed), CONFIG)
    refined = align(boxes, density, voxel_size, CONFIG, wedges=wedge(boxes), start=poses)
    own = consensus(boxes, voxel_size, np.random.default_rng(seed), CONFIG, wedges=wedge(boxes))
    ways = {"recovered densities": poses, "recovered densities, then subtomograms": refined}
    found = {name: onto(reference, (density, way), voxel_size) for name, way in ways.items()} | {"subtomograms": onto(reference, own, voxel_size)}
    return {name: judge(way, truth, boxes, reference, voxel_size) for name, way in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder in which novelty.py left the model")
    parser.add_argument("--seed", type=int, default=0, help="of the network")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the ribosomes are not at {DATA}: this benchmark needs them")
    model = load_model(arguments.work / f"model_without_ribosomes_{arguments.seed}")
    particles = [volume.with_data(np.ascontiguousarray(mirror(volume.data))) for volume in read_all(DATA)]
    found = predict_all(model, {REAL: particles, **make_controls(particles, np.random.default_rng(SEED))})
    recovered = np.stack(found[REAL].densities or [])
    novelty = [np.asarray(own.novelty) for own in found.values()]
    truth = np.repeat([1, 0], [len(particles), sum(len(own) for own in novelty[1:])])
    references = mirror(np.load(DATA / "truth.npz", allow_pickle=False)["reference_placed"].astype(np.float64))
    figures = {
        "particles": len(particles),
        "called": {kind: shares(own) for kind, own in found.items()},
        "auroc_against_controls": roc_auc_score(truth, np.concatenate(novelty)),
        "correlation_recovered": own_and_other(list(recovered), references),
        "groups_of_unknown": judge_groups(model, found, only_unknown=True),
        "groups_of_all": judge_groups(model, found, only_unknown=False),
        "poses_without_a_reference": judge_average(particles, recovered, arguments.seed),
    }
    write_result("real_novel", arguments.seed, figures, model, arguments.results)


if __name__ == "__main__":
    main()
