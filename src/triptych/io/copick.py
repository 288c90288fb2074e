"""copick projects on disk: a config.json, and ExperimentRuns/<run>/Picks/<user>_<session>_<object>.json with the points.

Written and read by ourselves, after copick's own data model, so that copick (which may want an older Zarr) need not be installed.

- Points are Å from the tomogram's first voxel. The 4 x 4 matrix takes the object to the tomogram; its translation, which other programs
  use for shifts, is added to the point.
- Session "0" says that a program made the picks. Names of objects, users and sessions hold neither spaces nor underscores.
"""

from __future__ import annotations

import colorsys
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_json
from triptych.io.numbering import file_names
from triptych.io.outputs import output_folder
from triptych.particles import Particles

logger = logging.getLogger(__name__)

CONFIG, RUNS = "config.json", "ExperimentRuns"
USER, SESSION = "triptych", "0"
LONGEST_NAME = 60
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s_]')


def find_config(path: Path) -> Path | None:
    """The configuration of a project that is named by it or by its folder."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    candidates = [path / CONFIG, path / "copick_config.json", *sorted(path.glob("*.json"))]
    return next((file for file in candidates if file.is_file()), None)


def _stated_roots(config: dict[str, Any], path: Path) -> dict[str, Path]:
    """The folders on this machine that a configuration names, by its words for them."""
    stated = {key: str(config.get(key) or "") for key in ("static_root", "overlay_root")}
    local = {key: re.sub(r"^(local|file)://", "", text) for key, text in stated.items() if text and not re.match(r"(?!local|file)\w+://", text)}
    return {key: path.parent / text for key, text in local.items()}  # an absolute one stays as it is


def _roots(config: dict[str, Any], path: Path) -> list[Path]:
    """The folders of a project on this machine: where the configuration says, and the one that it lies in."""
    folders = [path.parent, *_stated_roots(config, path).values()]
    return [folder for folder in dict.fromkeys(folder.resolve() for folder in folders) if (folder / RUNS).is_dir()]


def particles_from_copick(path: Path | str, user: str | None = None) -> Particles:
    """Points of a project on disk, by run and then by file; the object is the class, the run the tomogram.

    Users and sessions annotate the same objects apart from each other: `user`, "alice" or "alice/1", says whose points are meant; None: all.
    """
    path = Path(path)
    file = find_config(path)
    if file is None:
        raise InputError(f"{path} is no copick project (it holds no {CONFIG}): give the project's folder or its configuration")
    config = read_json(file, "copick configuration")
    if not isinstance(config, dict) or not isinstance(config.get("pickable_objects"), list):
        raise InputError(f"{file} is no copick configuration (it lists no pickable_objects): give the project's folder or its configuration")
    picks = [pick for root in _roots(config, file) for pick in sorted(root.glob(f"{RUNS}/*/Picks/*.json"))]
    columns: list[dict[str, Any]] = []
    places, matrices, trusted = [], [], []
    for pick in picks:
        content = _check_picks(read_json(pick, "copick file of picks"), pick)
        for number, point in enumerate(content.get("points") or [], 1):
            place, matrix = _read_point(point, number, pick)
            places.append(place)
            matrices.append(matrix)
            trusted.append(str(content.get("trust_orientation")).lower() != "false")  # pydantic, as copick has it, takes "false" for it, too
            columns.append(_point_columns(point, content, pick))
    missing = {key: folder for key, folder in _stated_roots(config, file).items() if not folder.is_dir()}
    if not columns and missing:
        key = "overlay_root" if "overlay_root" in missing else "static_root"  # the former is where one's own picks are
        raise InputError(f"{key} {missing[key]} of {file} does not exist here, and no picks lie beside {file.name}: correct {key} there")
    if not columns:
        raise InputError(f"{path} holds no picks on this machine ({RUNS}/<run>/Picks/*.json with points): give a project with picks")
    table = pd.DataFrame(columns)
    chosen = _choose_user(table, user, path)
    table = table[chosen].reset_index(drop=True)
    scores, spacings = (np.asarray(pd.to_numeric(table[name], errors="coerce"), dtype=np.float64) for name in ("score", "voxel_spacing"))
    return Particles(
        table[["instance_id", "user_id", "session_id"]],
        np.array(places)[chosen],
        np.array(matrices)[chosen] if np.array(trusted)[chosen].any() else None,
        tomograms=table["run_name"].tolist(),
        classes=table["pickable_object_name"].tolist(),
        scores=scores if np.isfinite(scores).any() else None,
        pixel_sizes=spacings if np.isfinite(spacings).all() and (spacings > 0).all() else None,
        radii=_stated_radii(config),
    )


def _stated_radii(config: dict[str, Any]) -> dict[str, float]:
    """Å, by the object's name; copick leaves it open for what is no particle."""
    things = [(thing.get("name"), thing.get("radius")) for thing in config["pickable_objects"] if isinstance(thing, dict)]
    return {str(name): float(radius) for name, radius in things if isinstance(radius, int | float) and 0 < radius < math.inf}


def _choose_user(table: pd.DataFrame, user: str | None, path: Path) -> NDArray[np.bool_]:
    """Which points are those of a user, and of a session if one is named; a warning where several have annotated the same."""
    who = table["user_id"] + "/" + table["session_id"]
    counts = ", ".join(f"{name} ({number})" for name, number in who.value_counts(sort=False).items())
    if user is None:
        if table.assign(who=who).groupby(["run_name", "pickable_object_name"])["who"].nunique().max() > 1:
            text = "%s holds points of the same objects in the same tomograms by several users or sessions, %s, and all are taken: `triptych convert "
            logger.warning(text + "--user NAME` or `NAME/SESSION` takes those of one", path, counts)
        return np.ones(len(table), bool)
    chosen = np.asarray((who if "/" in user else table["user_id"]) == user)
    if not chosen.any():
        raise InputError(f"{path} has no points by {user}, but by {counts}: name one of these, with or without the session")
    return chosen


def _check_picks(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("pickable_object_name"), str) or not isinstance(content.get("points") or [], list):
        raise InputError(f"{path} is no copick file of picks (pickable_object_name and points were expected): write it anew")
    if content.get("unit", "angstrom") != "angstrom":
        raise InputError(f"{path} counts in {content['unit']!r}, but copick's unit is angstrom: write it anew")
    return content


def _read_point(point: Any, number: int, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place in Å and rotation."""
    try:
        place = np.array([float(point["location"][axis]) for axis in "xyz"])
        matrix = np.array(point.get("transformation_") or np.eye(4), dtype=np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(f"point {number} of {path} lacks a location (x, y, z) or has no 4 x 4 transformation_: write it anew") from None
    rotation = matrix[:3, :3]
    if not np.isfinite(place).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise InputError(f"point {number} of {path} has a place that is no number, or a matrix that is no rotation: write it anew")
    return place + matrix[:3, 3], rotation


def _point_columns(point: dict[str, Any], content: dict[str, Any], path: Path) -> dict[str, Any]:
    return {
        "run_name": path.parent.parent.name,
        "pickable_object_name": content["pickable_object_name"],
        "instance_id": point.get("instance_id") or 0,
        "score": point.get("score"),
        "user_id": str(content.get("user_id") or path.stem.split("_")[0]),
        "session_id": str(content.get("session_id") or SESSION),
        "voxel_spacing": content.get("voxel_spacing"),
    }


# ------------------------------------------------------------------------------------------------------------- writing


def clean_name(name: str) -> str:
    """A name as copick allows it."""
    return _UNSAFE.sub("-", name)[:LONGEST_NAME].strip("-") or "unnamed"


def _clean_names(names: Sequence[str], what: str) -> dict[str, str]:
    clean = {name: clean_name(name) for name in dict.fromkeys(names)}
    changed = [name for name in clean if clean[name] != name]
    if len(set(clean.values())) < len(clean):
        raise InputError(f"copick allows no spaces or underscores in names, and without them two of {', '.join(clean)} are the same: rename one")
    if changed:
        logger.warning("copick allows neither spaces nor underscores in the names of %s: %s became %s", what, changed[0], clean[changed[0]])
    return clean


def _color(number: int) -> list[int]:
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.65, 0.95)
    return [round(255 * red), round(255 * green), round(255 * blue), 255]


def write_copick(path: Path | str, particles: Particles) -> None:
    """Write a project: a folder with its configuration, which points to this very folder, and the picks."""
    path = Path(path)
    if particles.tomograms is None or particles.classes is None:
        what = "the particles' tomogram: name it with --tomogram" if particles.tomograms is None else "what they are: say it with --class"
        raise InputError(f"a copick project needs names of tomograms and objects, but the input does not tell {what}")
    runs = file_names(particles.tomograms)
    objects = _clean_names(sorted(set(particles.classes)), "objects")
    config = {
        "config_type": "filesystem",
        "name": path.absolute().name,
        "description": "particles written by triptych",
        "version": "1.0.0",
        "pickable_objects": [
            {"name": name, "is_particle": True, "label": number, "color": _color(number)} for number, name in enumerate(objects.values(), 1)
        ],
        "overlay_root": f"local://{path.absolute()}/",
        "overlay_fs_args": {"auto_mkdir": True},
    }
    with output_folder(path) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for run, name, user, session, rows in _groups(particles):
            picks = _picks(particles.take(rows), objects[name], user, session, runs[run])
            place = folder / RUNS / runs[run] / "Picks" / f"{user}_{session}_{objects[name]}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(picks, indent=1) + "\n", encoding="utf-8")


def _groups(particles: Particles) -> list[tuple[str, str, str, str, NDArray[np.int64]]]:
    """Run, object, user, session and rows of each file."""
    count = len(particles)
    users, sessions = (
        [clean_name(str(value)) for value in particles.table[name]] if name in particles.table else [default] * count
        for name, default in (("user_id", USER), ("session_id", SESSION))
    )
    keys = list(zip(particles.tomograms or (), particles.classes or (), users, sessions, strict=True))
    rows: dict[tuple[str, str, str, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [(*key, np.array(numbers)) for key, numbers in rows.items()]


def _whole_numbers(column: pd.Series, label: str) -> list[int]:
    try:
        return [int(value) for value in column]
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"the column {label} holds something else than whole numbers, which copick's instances have: correct it") from None


def _picks(particles: Particles, name: str, user: str, session: str, run: str) -> dict[str, Any]:
    assert particles.positions is not None
    sizes = particles.pixel_sizes
    label = next((key for key in ("instance_id", "triptychInstance") if key in particles.table), None)
    instances = [0] * len(particles) if label is None else _whole_numbers(particles.table[label], label)
    points = []
    for row, (x, y, z) in enumerate(particles.positions.tolist()):
        matrix = np.eye(4)
        if particles.rotations is not None:
            matrix[:3, :3] = particles.rotations[row]
        point = {"location": {"x": x, "y": y, "z": z}, "transformation_": matrix.tolist(), "instance_id": instances[row]}
        if particles.scores is not None and np.isfinite(particles.scores[row]):
            point["score"] = float(particles.scores[row])
        points.append(point)
    return {
        "pickable_object_name": name,
        "user_id": user,
        "session_id": session,
        "run_name": run,
        "voxel_spacing": None if sizes is None else float(sizes[0]),
        "unit": "angstrom",
        "points": points,
        "trust_orientation": particles.rotations is not None,
    }
