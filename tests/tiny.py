"""Inputs small enough to run whole commands on, made when they are needed."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import torch
import zarr

from triptych.config import NetworkConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.manifest import hash_file
from triptych.recognition.model import Model, ModelCard
from triptych.recognition.network import Network

SIMULATE = [
    "particles=12",
    "particles_per_tomogram=4",
    "box_size=16",
    "max_shift=10",
    "specimen.shape=[32, 64, 64]",
    "workers=1",
]
TRAIN = [
    "updates=2",
    "batch_size=4",
    "tiles_per_batch=2",
    "updates_per_checkpoint=1",
    "validation_particles=4",
    "network.channels=[8, 8, 8]",
    "network.blocks=[1, 1, 1]",
    "network.embedding_size=8",
    "loader_workers=0",
]
DISCOVER = [
    "classes=[complex, other, none]",
    "one_group=true",
    "group.smallest=4",
    "align.step=45",
    "align.starts=1",
    "align.rounds=1",
    "align.candidates=1",
]

ORIENT = ["unknown=true", "align.step=45", "align.candidates=1"]


def set_options(settings: list[str]) -> list[str]:
    """``--set`` options of a command line."""
    return [word for setting in settings for word in ("--set", setting)]


def write_pdb(path: Path, residues: int, radius: float, seed: int = 0) -> Path:
    """A protein of CA atoms scattered in a ball (Å), chain A."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(residues, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    positions = direction * radius * rng.uniform(size=(residues, 1)) ** (1 / 3)
    lines = [f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  " for i, (x, y, z) in enumerate(positions, start=1)]
    path.write_text("\n".join([*lines, "TER", "END", ""]), encoding="ascii")
    return path


def write_mrc(path: Path, data: np.ndarray, voxel_size: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = voxel_size
    return path


def write_particles(folder: Path, count: int = 3, box_size: int = 24, voxel_size: float = 12.0) -> Path:
    """A RELION STAR file of dark blobs in noise."""
    rng = np.random.default_rng(1)
    z, y, x = np.mgrid[:box_size, :box_size, :box_size] - box_size // 2
    blob = np.exp(-(x**2 + y**2 + z**2) / (2 * 5.0**2))
    for i in range(1, count + 1):
        write_mrc(folder / f"subtomograms/particle_{i}.mrc", rng.normal(size=blob.shape) - 2 * blob, voxel_size)
    star = folder / "particles.star"
    rows = "\n".join(f"TS_01 subtomograms/particle_{i}.mrc 1 {i}" for i in range(1, count + 1))
    star.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnImagePixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n"
        f"_rlnImageSize #6\n_rlnImageDimensionality #7\n1 opticsGroup1 {voxel_size} 300.0 2.7 {box_size} 3\n\n"
        f"data_particles\n\nloop_\n_rlnTomoName #1\n_rlnImageName #2\n_rlnOpticsGroup #3\n_rlnClassNumber #4\n{rows}\n",
        encoding="utf-8",
    )
    return star


def write_cache(folder: Path) -> Path:
    """What `structures fetch` keeps of the entries that the README names, so that the test needs no network."""
    folder.mkdir()
    for name in ("1aon.cif.gz", "emd_1997.map.gz"):
        (folder / name).write_bytes(gzip.compress(b"kept from an earlier download"))
    (folder / "emd-1997.xml").write_text("<emd/>", encoding="ascii")
    return folder


def shuffle_labels(data: Path, out: Path, seed: int, workers: int) -> Path:
    """What `simulate_again` is called like; quick: the same store with the labels in another order."""
    if not out.exists():
        part = out.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(data, part)
        label = zarr.open_group(part, mode="r+")["label"]
        label[:] = np.random.default_rng(seed).permutation(label[:])
        part.rename(out)
    return out


def refuse_to_refresh(data: Path, out: Path, seed: int, workers: int) -> Path:
    raise InputError("the library is gone")


def die_while_refreshing(data: Path, out: Path, seed: int, workers: int) -> Path:
    os._exit(1)


def write_model(folder: Path) -> Path:
    """A model with all tasks whose weights are random."""
    torch.manual_seed(0)
    config = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(config, ("a", "b", "none"), 10.0, 16, "dark", label_names=("a", "b"))
    Model(Network(config, 3, 2), card, "cpu", "float32").save(folder, TrainConfig(network=config), [], 0)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every file of an output but the manifest, which says when it was made."""
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"}
