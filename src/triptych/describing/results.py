"""What triptych writes: datasets, models, predictions, picks and poses."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from triptych.config import NONE_CLASS
from triptych.describing.description import Description
from triptych.errors import InputError, counted
from triptych.io.files import read_json
from triptych.io.manifest import hash_file, is_written_by, read_manifest
from triptych.io.output_names import CARD, GROUP, MANIFEST, PARTICLES
from triptych.io.star import numbers, read_star, tables_with
from triptych.volume import spread_numbers

SAMPLE = 256
"""Subtomograms of a dataset that are looked at."""


def describe_store(path: Path) -> Description:
    from triptych.io.store import open_store

    store = open_store(path)
    result = Description("triptych dataset")
    result.add("subtomograms", f"{len(store)}, {store.box_size}^3 voxels of {store.voxel_size:g} Å")
    result.add("contrast", f"{store.contrast}, as the dataset states")
    if "label" in store:
        counts = Counter(int(label) for label in np.asarray(store["label"][:]))
        known = [name for number, name in enumerate(store.class_names) if counts[number]]
        result.add("classes", f"{len(store.class_names)}, of which {len(known)} occur")
        result.add("count per class", ", ".join(f"{name} {counts[number]}" for number, name in enumerate(store.class_names)))
        wrong = sum(count for number, count in counts.items() if not 0 <= number < len(store.class_names))
        if wrong:
            result.warn(f"{counted(wrong, 'label')} of no class: write the dataset anew.")
    if "snr" in store:
        snr = np.asarray(store["snr"][:], dtype=np.float64)
        is_none = np.isin(store["label"][:], [number for number, name in enumerate(store.class_names) if name == NONE_CLASS])
        for what, rows in (("SNR", ~is_none), (f'SNR of "{NONE_CLASS}"', is_none)):
            stated = snr[rows & np.isfinite(snr) & (snr > 0)]
            if stated.size:
                result.add(what, f"{stated.min():.3g} to {stated.max():.3g}, var(signal) / var(noise)")
    sample = spread_numbers(len(store), SAMPLE)
    bad = sum(not np.isfinite(store["subtomogram"][row]).all() for row in sample)
    if bad:
        result.warn(f"{bad} of {len(sample)} subtomograms that were looked at hold infinite values or NaN: write the dataset anew, at a lower SNR.")
    return result


def describe_model(path: Path) -> Description:
    card = read_json(path / CARD, "description of a model")
    result = Description("triptych model")
    if not isinstance(card, dict):
        raise InputError(f"{path / 'model.json'} does not describe a model: use the folder as `triptych train` wrote it")
    names = card.get("class_names")
    if isinstance(names, list):
        result.add("classes", f"{len(names)}: {', '.join(map(str, names))}")
    network = card.get("network")
    if isinstance(network, dict) and isinstance(network.get("tasks"), list):
        result.add("tasks", ", ".join(map(str, network["tasks"])))
    result.add("input", f"{card.get('box_size')}^3 voxels of {card.get('voxel_size')} Å, particles {card.get('contrast')}")
    novelty, fidelity = card.get("novelty"), card.get("fidelity")
    if isinstance(novelty, dict):
        result.add("unknown particles", f"told by {novelty.get('score')}, threshold chosen on {novelty.get('chosen_on')}")
    if isinstance(fidelity, dict) and isinstance(fidelity.get("error"), float):
        error, particles = fidelity["error"], fidelity.get("particles")
        result.add("fidelity", f"of recovered densities, wrong by {error:.3f} (root mean square of {particles} particles)")
    result.add("version", card.get("version"))
    files = read_manifest(path).get("files") if (path / MANIFEST).is_file() else None
    if not isinstance(files, dict) or not files:
        result.warn("There is no manifest with hashes, so the weights cannot be checked and the model will not load.")
        return result
    for name, digest in files.items():
        file = path / Path(str(name)).name  # a hash is never taken of anything outside the folder
        if not os.path.isfile(file):
            result.warn(f"{name} is missing: the model will not load.")
        elif hash_file(file) != digest:
            result.warn(f"{name} was altered after training: the model will not load.")
    if not result.warnings:
        result.add("integrity", f"the hashes of {', '.join(map(str, files))} are right")
    return result


def describe_predictions(path: Path) -> Description:
    """What predict, pick or orient wrote, or discover of a group."""
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    picked, oriented, is_group = is_written_by(manifest, "pick"), is_written_by(manifest, "orient"), (path / GROUP).is_file()
    kind = "picks" if picked else "poses" if oriented else "group of particles" if is_group else "predictions"
    result = Description(f"triptych {kind}")
    table = tables_with(read_star(path / PARTICLES)).get("particles")
    if table is None:
        raise InputError(f"{path / 'particles.star'} holds no table of particles: predict or pick anew")
    result.add("particles", len(table))
    if picked and "rlnTomoName" in table:
        counts = Counter(table["rlnTomoName"].astype(str))
        result.add("tomograms with particles", ", ".join(f"{name} {count}" for name, count in counts.most_common(8)) or "none")
    if "triptychClass" in table:
        counts = Counter(table["triptychClass"].astype(str))
        result.add("classes", ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    medians = {"probability": "triptychProbability", "score": "triptychScore", "alignment score": "triptychAlignmentScore"}
    for label, column in ((f"median {name}", column) for name, column in medians.items()):
        if column in table and len(table):
            result.add(label, f"{np.median(numbers(table, column, path / 'particles.star')):.3f}")
    if manifest is not None:
        _add_manifest(result, manifest)
    elif is_group:
        _add_group(result, path / GROUP)
    else:
        result.warn("There is no manifest.json, so triptych cannot tell how this was made.")
    return result


def describe_result(path: Path) -> Description:
    manifest = read_manifest(path)
    if is_written_by(manifest, "orient"):
        return describe_predictions(path)
    result = Description("result of triptych")
    _add_manifest(result, manifest)
    return result


def _add_group(result: Description, path: Path) -> None:
    group = read_json(path, "description of a group")
    if not isinstance(group, dict):
        raise InputError(f"{path} is no description of a group: discover anew")
    for name, unit in (("stability", ""), ("resolution", " Å")):
        if isinstance(group.get(name), float):
            result.add(name, f"{group[name]:.3g}{unit}")
    like = [str(match.get("name")) for match in group.get("matches") or () if isinstance(match, dict)]
    if like:
        result.add("most like", like[0])


def _add_manifest(result: Description, manifest: dict[str, Any]) -> None:
    result.add("made by", f"triptych {manifest.get('triptych')} {manifest.get('stage')}, {manifest.get('created')}")
    for given in manifest.get("inputs") or ():
        if isinstance(given, dict):
            result.add("from", given.get("path"))
    particles = manifest.get("particles")
    if isinstance(particles, dict) and "count" in particles:
        result.add("input", f"particles: {particles.get('count')}, {particles.get('voxel_size')} Å, {particles.get('contrast')}")
        if particles.get("contrast_warning"):
            result.warn(str(particles["contrast_warning"]))
    if isinstance(particles, dict) and particles.get("renamed"):
        result.add("renamed", f"{particles['renamed']}, to a class that fits better than the one that the network had named")
    hand = manifest.get("hand")
    if isinstance(hand, dict):
        result.add("hand", hand.get("verdict"))
        if hand.get("wrong") is True:
            result.warn("The tomograms are probably mirrored: correct the sign of the tilt angles or the flipped axis, and begin again from there.")
    for warning in manifest.get("contrast_warnings") or ():
        result.warn(str(warning))
