"""What is this file, as triptych reads it? Facts and warnings about anything that triptych reads or writes."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from triptych.config import PredictConfig
from triptych.errors import InputError, first_line
from triptych.fourier import guess_contrast
from triptych.io.manifest import MANIFEST, hash_file, read_manifest
from triptych.io.mrc import are_valid, is_mrc_name, read_header, read_mrc, read_sections, stated_voxel_size
from triptych.io.relion import CENTERED, COORDINATES, RelionFile, find_file, numbers, read_relion
from triptych.io.source import MAX_BOX, ParticleSource, mrc_files, open_particles
from triptych.io.star import read_star
from triptych.volume import Volume

COORDINATE_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
CONTRAST_SAMPLE = 20
SURE = 3.0
"""From this z-score on the contrast is called, below it is a guess."""


@dataclass
class Description:
    """What a file is."""

    kind: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of label and text, in order."""
    warnings: list[str] = field(default_factory=list)
    """One sentence each: what is suspect and what to do."""

    def add(self, label: str, text: object) -> None:
        self.facts.append((label, str(text)))


def describe_file(path: Path | str) -> Description:
    """Say what a file or folder is.

    Parameters
    ----------
    path : MRC, STAR, PDB or mmCIF file; index of structures (CSV); folder of MRC files; dataset, model, structure library or predictions of
        triptych
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name")
    name = path.name.lower()
    if path.is_dir():
        return _describe_folder(path)
    if name.endswith(".star"):
        return _describe_star(path)
    if name.removesuffix(".gz").endswith(COORDINATE_SUFFIXES):
        return _describe_atoms(path)
    if is_mrc_name(path):
        return _describe_mrc(path)
    if name.endswith(".csv"):
        return _describe_index(path)
    raise InputError(f"{path} is of no kind that triptych knows: give an MRC, STAR, PDB or mmCIF file, or a folder that triptych wrote")


def _describe_folder(path: Path) -> Description:
    readers: tuple[tuple[str, Callable[[Path], Description]], ...] = (
        ("zarr.json", _describe_store),
        ("model.json", _describe_model),
        ("library.json", _describe_library),
        ("embedding.npy", _describe_predictions),
        (MANIFEST, _describe_result),
    )
    for name, reader in readers:
        if (path / name).is_file():
            return reader(path)
    stars = sorted(path.glob("*.star"))
    if stars:
        names = ", ".join(star.name for star in stars[:5])
        raise InputError(f"{path} is a folder with {len(stars)} STAR files ({names}): name the one that is meant")
    if mrc_files(path):
        return _describe_volumes(path)
    raise InputError(f"{path} holds nothing that triptych knows: give a folder of MRC files, or one that triptych wrote")


# ------------------------------------------------------------------------------------------------------------------ MRC


def _describe_mrc(path: Path) -> Description:
    header = read_header(path)
    nz, ny, nx = header.shape
    is_cube = nx == ny == nz <= MAX_BOX
    result = Description("MRC volume")
    if header.volumes > 1:
        result = Description(f"MRC stack of {header.volumes} volumes")
    elif header.image_stack:
        result = Description(f"MRC stack of {nz} images")
        result.warnings.append("The header calls this a stack of 2-D images, which triptych does not read: export 3-D subtomograms.")
    result.add("size", f"{nx} x {ny} x {nz} voxels (x, y, z)")
    _add_voxel_size(result, header.voxel_size, stated_voxel_size(header))
    result.add("origin", "{:g}, {:g}, {:g} Å (x, y, z)".format(*header.origin))
    result.add("values", f"mode {header.mode} ({header.dtype.newbyteorder('=')}{', big-endian' if header.dtype.byteorder == '>' else ''})")
    if header.transpose != (0, 1, 2):
        result.add("axes", "stored in another order than x, y, z; read as x, y, z")
    for label in filter(None, header.labels[:3]):
        result.add("label", label)
    finite = _add_grey_values(result, path)
    if is_cube and header.volumes == 1 and finite:
        _add_contrast(result, [read_mrc(path, 1.0)])
    elif header.volumes == 1 and not header.image_stack and not is_cube:
        result.add("use", "a tomogram or a map, for its box is not a cube; subtomograms are cubes")
    return result


def _add_voxel_size(result: Description, stated: tuple[float, float, float], usable: float | None) -> None:
    text = f"{usable:g}" if usable is not None else " x ".join(f"{size:g}" for size in stated)
    result.add("voxel size", f"{text} Å")
    if usable is not None:
        if not 1.5 <= usable <= 40:
            result.warnings.append(f"A voxel size of {usable:g} Å is unusual for a tomogram: make sure that it is right.")
    elif len(set(stated)) == 1:
        why = "which usually means that it was never set" if stated[0] in (0, 1) else "which makes no sense"
        result.warnings.append(f"The header states {stated[0]:g} Å per voxel, {why}: give the right one with --set voxel_size=.")
    else:
        result.warnings.append(f"The voxel size {text} Å differs between the axes or makes no sense: give the right one with --set voxel_size=.")


def _add_grey_values(result: Description, path: Path) -> bool:
    """Range, mean and deviation, section by section; whether all values are finite."""
    low, high, total, squares, count, bad = math.inf, -math.inf, 0.0, 0.0, 0, 0
    for section in read_sections(path):
        finite = are_valid(section)
        if not finite.all():
            bad += int(section.size - finite.sum())
        values = section[finite].astype(np.float64)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            total, squares, count = total + float(values.sum()), squares + float((values**2).sum()), count + values.size
    if count:
        mean = total / count
        result.add("grey values", f"{low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {math.sqrt(max(squares / count - mean**2, 0)):.4g}")
        if low == high:
            result.warnings.append("All values are the same: the volume is empty.")
    if bad:
        result.warnings.append(f"{bad} values are NaN, infinite or absurdly large: triptych refuses such a volume, make it again without them.")
    return bad == 0 and count > 0


def _add_contrast(result: Description, volumes: list[Volume]) -> None:
    """What the data look like, with how sure that is."""
    sign, z_score = guess_contrast(volumes)
    if sign == 0:
        return
    word = "bright (high values)" if sign > 0 else "dark (low values)"
    number = "one volume" if len(volumes) == 1 else f"{len(volumes)} volumes"
    doubt = "" if abs(z_score) >= SURE else ": too little to tell"
    result.add("contrast", f"the middle looks {word}, z = {z_score:.1f} from {number}{doubt}")


def _sample(source: ParticleSource) -> list[Volume]:
    rows = np.unique(np.linspace(0, len(source) - 1, min(CONTRAST_SAMPLE, len(source))).astype(int))
    return [source.read(int(row)) for row in rows]


def _describe_volumes(path: Path) -> Description:
    files = mrc_files(path)
    result = Description("folder of MRC files")
    result.add("files", len(files))
    headers = [read_header(file) for file in files]
    shapes = Counter(header.shape for header in headers)
    result.add("sizes", ", ".join(f"{x} x {y} x {z} ({count})" for (z, y, x), count in shapes.most_common(4)))
    sizes = Counter(stated_voxel_size(header) for header in headers)
    result.add("voxel size", ", ".join(f"{'not stated' if size is None else f'{size:g} Å'} ({count})" for size, count in sizes.most_common(4)))
    if None in sizes:
        result.warnings.append(f"The headers of {sizes[None]} files state no usable voxel size: give it with --set voxel_size=.")
    if len(sizes) > 1:
        result.warnings.append("The files state different voxel sizes: triptych reads each as it says, unless --set voxel_size= is given.")
    if any(len(set(shape)) > 1 for shape in shapes):
        result.warnings.append("Some boxes are no cubes, so these are no subtomograms that triptych could classify.")
    else:
        config = PredictConfig(voxel_size=None if None not in sizes else 1.0)
        _add_contrast(result, _sample(open_particles(path, config, 1.0)))
    return result


# ----------------------------------------------------------------------------------------------------------------- STAR


def _describe_star(path: Path) -> Description:
    blocks = read_star(path)
    try:
        file = read_relion(path)
    except InputError as error:
        result = Description("STAR file")
        for name, block in blocks.items():
            text = f"{len(block)} rows, {len(block.columns)} columns" if isinstance(block, pd.DataFrame) else f"{len(block)} values"
            result.add(f"data_{name}", text)
        result.warnings.append(f"It cannot be used as particles: {error}.")
        return result

    result = Description("STAR file of particles" if file.path == path else "STAR optimisation set")
    if file.path != path:
        result.add("particles in", file.path)
    result.add("written for", file.dialect)
    result.add("particles", len(file))
    names = file.tomogram_names
    if names is not None:
        result.add("tomograms", len(set(names)))
    if file.optics is not None:
        result.add("optics groups", len(file.optics))
    labels = set(file.table.columns)
    _guard(result, lambda: _add_images(result, file, labels))
    if set(COORDINATES) <= labels or set(CENTERED) <= labels:
        _guard(result, lambda: _add_coordinates(result, file))
    elif "rlnImageName" not in labels:
        result.warnings.append("There are neither images nor coordinates in it.")
    return result


def _guard(result: Description, step: Callable[[], None]) -> None:
    """What would stop a run is a warning here."""
    try:
        step()
    except InputError as error:
        result.warnings.append(f"{error}.")


def _add_images(result: Description, file: RelionFile, labels: set[str]) -> None:
    if "rlnImageName" not in labels:
        return
    sizes = file.image_voxel_size()
    stated = "not stated; their headers decide" if sizes is None else ", ".join(f"{size:g} Å" for size in np.unique(sizes))
    result.add("voxel size of the images", stated)
    names = file.table["rlnImageName"].astype(str)
    folders = file.folders
    missing = [name for name in names if find_file(name.split("@", 1)[-1], folders) is None]
    result.add("images", f"{len(names) - len(missing)} of {len(names)} found" + (", stacks of 2-D tilt images" if file.tilt_stacks else ""))
    if missing:
        text = f"{len(missing)} images are missing, the first is {missing[0]}: copy them beside the STAR file or correct rlnImageName."
        result.warnings.append(text)
        return
    source = open_particles(file.path, PredictConfig(), 400.0)
    volumes = _sample(source)
    result.add("boxes", ", ".join(f"{size} voxels" for size in sorted({volume.shape[0] for volume in volumes})))
    _add_contrast(result, volumes)


def _add_coordinates(result: Description, file: RelionFile) -> None:
    positions, centered = file.coordinates()
    if centered:
        result.add("coordinates", "Å from the tomogram's centre, N / 2 unbinned pixels from its corner as in RELION's C++")
    else:
        sizes = ", ".join(f"{size:g}" for size in np.unique(file.coordinate_pixel_size()))
        result.add("coordinates", f"pixels of {sizes} Å ({'as Warp exports' if file.is_warp else 'the unbinned tilt series'}) from the first voxel")
    low, high = positions.min(axis=0), positions.max(axis=0)
    ranges = (f"{axis} {a:.0f} to {b:.0f} Å" for axis, a, b in zip("xyz", low, high, strict=True))
    result.add("extent", f"{', '.join(ranges)}, origin shifts subtracted")
    centers = file.tomogram_centers()
    if centers is not None:
        places = positions + centers if centered else positions
        outside = int(((places < 0) | (places > 2 * centers)).any(axis=1).sum())
        if outside:
            result.warnings.append(f"{outside} particles lie outside their tomogram as the table of tomograms states its size: check the pixel size.")


# ---------------------------------------------------------------------------------------------------- folders of triptych


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): make the folder anew") from None


def _describe_store(path: Path) -> Description:
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
            result.warnings.append(f"{wrong} labels stand for no class: write the dataset anew.")
    if "snr" in store:
        snr = np.asarray(store["snr"][:], dtype=np.float64)
        snr = snr[np.isfinite(snr) & (snr > 0)]
        if snr.size:
            result.add("SNR", f"{snr.min():.3g} to {snr.max():.3g}, var(signal) / var(noise)")
    return result


def _describe_model(path: Path) -> Description:
    card = _read_json(path / "model.json")
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
    result.add("version", card.get("version"))
    files = read_manifest(path).get("files") if (path / MANIFEST).is_file() else None
    if not isinstance(files, dict) or not files:
        result.warnings.append("There is no manifest with hashes, so the weights cannot be checked and the model will not load.")
        return result
    for name, digest in files.items():
        file = path / Path(str(name)).name  # a hash is never taken of anything outside the folder
        if not os.path.isfile(file):
            result.warnings.append(f"{name} is missing: the model will not load.")
        elif hash_file(file) != digest:
            result.warnings.append(f"{name} was altered after training: the model will not load.")
    if not result.warnings:
        result.add("integrity", f"the hashes of {', '.join(map(str, files))} are right")
    return result


def _describe_library(path: Path) -> Description:
    entries = _read_json(path / "library.json")
    result = Description("triptych structure library")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path / 'library.json'} is no index of structures: make the library anew with `triptych structures make`")
    result.add("structures", len(entries))
    for entry in entries:
        result.add(str(entry.get("name")), f"{entry.get('mass_kda')} kDa, {entry.get('voxel_size')} Å, {entry.get('source')}")
        if not os.path.isfile(path / Path(str(entry.get("file"))).name):
            result.warnings.append(f"The map {entry.get('file')} is missing: make the library anew.")
    return result


def _describe_index(path: Path) -> Description:
    """The table of sources that `triptych structures make` takes."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}): check the file") from None
    if not rows or not {"name", "file"} <= rows[0].keys():
        raise InputError(f"{path} has no rows with the columns name and file, so it is no index of structures, the only CSV file that triptych reads")
    result = Description("index of structures")
    counts = Counter(row["name"] for row in rows)
    result.add("structures", f"{len(rows)}: {', '.join(map(str, counts))}")
    result.add("use", f"triptych structures make {path} LIBRARY makes a library of them to simulate from")
    missing = [str(row["file"]) for row in rows if not row["file"] or not os.path.isfile(path.parent / row["file"])]
    if missing:
        some = ", ".join(missing[:3])
        result.warnings.append(f"{len(missing)} of their files are not beside it ({some}): fetch them with `triptych structures fetch`.")
    twice = [str(name) for name, count in counts.items() if count > 1]
    if twice:
        result.warnings.append(f"More than one is called {', '.join(twice)}: give each its own name.")
    return result


def _describe_predictions(path: Path) -> Description:
    result = Description("triptych predictions")
    table = read_star(path / "particles.star").get("particles")
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{path / 'particles.star'} holds no table of particles: predict anew")
    result.add("particles", len(table))
    if "triptychClass" in table:
        counts = Counter(table["triptychClass"].astype(str))
        result.add("classes", ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    if "triptychProbability" in table:
        result.add("median probability", f"{np.median(numbers(table, 'triptychProbability', path / 'particles.star')):.3f}")
    if (path / MANIFEST).is_file():
        _add_manifest(result, path)
    else:
        result.warnings.append("There is no manifest.json, so triptych cannot tell how this was made.")
    return result


def _describe_result(path: Path) -> Description:
    result = Description("result of triptych")
    _add_manifest(result, path)
    return result


def _add_manifest(result: Description, path: Path) -> None:
    manifest = read_manifest(path)
    result.add("made by", f"triptych {manifest.get('triptych')} {manifest.get('stage')}, {manifest.get('created')}")
    for given in manifest.get("inputs") or ():
        if isinstance(given, dict):
            result.add("from", given.get("path"))
    particles = manifest.get("particles")
    if isinstance(particles, dict):
        result.add("input", f"{particles.get('count')} particles, {particles.get('voxel_size')} Å, {particles.get('contrast')}")
        if particles.get("contrast_warning"):
            result.warnings.append(str(particles["contrast_warning"]))


# ---------------------------------------------------------------------------------------------------------------- atoms


def _describe_atoms(path: Path) -> Description:
    import gemmi

    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as PDB or mmCIF ({first_line(error)}): fetch it again") from None
    if not len(structure):
        raise InputError(f"{path} holds no model with atoms: fetch it again")
    model = structure[0]
    atoms = model.count_atom_sites()
    result = Description("PDB or mmCIF file of atoms")
    result.add("entry", structure.name or "not named")
    result.add("models", len(structure))
    result.add("chains", f"{len(model)} in the first model")
    result.add("atoms", f"{atoms} in the first model")
    assemblies = [f"{item.name} ({sum(len(part.operators) for part in item.generators)} operators)" for item in structure.assemblies[:6]]
    result.add("assemblies", ", ".join(assemblies) or "none")
    residues = sum(len(chain) for chain in model)
    if residues and atoms < 2 * residues:
        result.warnings.append("Most residues have one atom: only the chain's trace (CA or P) is there, and its density is an estimate.")
    if not atoms:
        result.warnings.append("There are no atoms in it.")
    return result
