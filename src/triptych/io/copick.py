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
from collections.abc import Callable, Sequence
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
    places, rotations, trusted = [], [], []
    for pick in picks:
        content = _check_picks(read_json(pick, "copick file of picks"), pick)
        points = content.get("points") or []
        found, turned = _read_points(points, pick)
        places.append(found)
        rotations.append(turned)
        trusted += [str(content.get("trust_orientation")).lower() != "false"] * len(points)  # pydantic, as copick has it, takes "false" for it, too
        columns += [_point_columns(point, content, pick) for point in points]
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
        np.concatenate(places)[chosen],
        np.concatenate(rotations)[chosen] if np.array(trusted)[chosen].any() else None,
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


def _read_points(points: list[Any], path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (n, 3) in Å and rotations (n, 3, 3) of a file's points."""
    places, matrices = np.empty((len(points), 3)), np.tile(np.eye(4), (len(points), 1, 1))
    for row, point in enumerate(points):
        try:
            places[row] = [float(point["location"][axis]) for axis in "xyz"]
            if matrix := point.get("transformation_"):
                matrices[row] = np.array(matrix, dtype=np.float64).reshape(4, 4)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise InputError(f"point {row + 1} of {path} lacks a location (x, y, z) or has no 4 x 4 transformation_: write it anew") from None
    places += matrices[:, :3, 3]
    rotations = matrices[:, :3, :3]
    square = np.isclose(rotations @ rotations.swapaxes(1, 2), np.eye(3), atol=1e-3).all((1, 2))
    sound = np.isfinite(places).all(1) & square & (np.linalg.det(rotations) > 0)
    if not sound.all():
        point = f"point {sound.argmin() + 1} of {path}"
        raise InputError(f"{point} has a place that is no number, or a matrix that is no rotation: write it anew")
    return places, rotations


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
        point = _point_maker(particles)
        for run in runs.values():
            (folder / RUNS / run / "Picks").mkdir(parents=True)
        for run, name, user, session, rows in _groups(particles):
            picks = {
                "pickable_object_name": objects[name],
                "user_id": user,
                "session_id": session,
                "run_name": runs[run],
                "voxel_spacing": None if particles.pixel_sizes is None else float(particles.pixel_sizes[rows[0]]),
                "unit": "angstrom",
                "points": [point(row) for row in rows],
                "trust_orientation": particles.rotations is not None,
            }
            place = folder / RUNS / runs[run] / "Picks" / f"{user}_{session}_{objects[name]}.json"
            place.write_text(json.dumps(picks) + "\n", encoding="utf-8")  # indented, it takes five times as long


def _groups(particles: Particles) -> list[tuple[str, str, str, str, list[int]]]:
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
    return [(*key, numbers) for key, numbers in rows.items()]


def _whole_numbers(column: pd.Series, label: str) -> list[int]:
    try:
        return [int(value) for value in column]
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"the column {label} holds something else than whole numbers, which copick's instances have: correct it") from None


def _point_maker(particles: Particles) -> Callable[[int], dict[str, Any]]:
    """What copick keeps of a row."""
    assert particles.positions is not None
    positions, scores = particles.positions, particles.scores
    matrices = np.tile(np.eye(4), (len(particles), 1, 1))
    if particles.rotations is not None:
        matrices[:, :3, :3] = particles.rotations
    label = next((key for key in ("instance_id", "triptychInstance") if key in particles.table), None)
    instances = [0] * len(particles) if label is None else _whole_numbers(particles.table[label], label)

    def point(row: int) -> dict[str, Any]:
        place = dict(zip("xyz", positions[row].tolist(), strict=True))
        found = {"location": place, "transformation_": matrices[row].tolist(), "instance_id": instances[row]}
        return found if scores is None or not np.isfinite(scores[row]) else {**found, "score": float(scores[row])}

    return point
