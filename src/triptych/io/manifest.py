"""The manifest that says how a folder was made, and what inputs are recognised by."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from triptych.config import Settings
from triptych.errors import InputError
from triptych.io.output_names import MANIFEST
from triptych.io.outputs import output_file

LARGE = 2**26
"""Bytes from which on a file is not read anew only to see whether it has changed."""
PACKAGES = ("numpy", "torch", "zarr", "lightning", "gemmi")
Stage = Literal[
    "simulate", "simulate-tomograms", "cut", "average-halves", "train", "calibrate", "predict", "pick", "orient", "discover", "add-class", "report",
]  # fmt: skip
"""What writes a folder with a manifest, called as its command is."""


def installed_version(package: str = "triptych") -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file as hexadecimal digits, read piece by piece."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_input(path: Path | str) -> dict[str, Any]:
    """What identifies an input: the hash of a file; number, size and hash of the listing of a folder's files.

    The contents of a folder are not hashed, because it may hold millions of particles.
    """
    path = Path(path)
    if path.is_file():
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": hash_file(path)}
    if not path.is_dir():
        return {"path": str(path)}
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    listing = "".join(f"{name}\t{size}\n" for name, size in sizes.items())
    return {
        "path": str(path),
        "entries": len(sizes),
        "bytes": sum(sizes.values()),
        "sha256_of_listing": hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
    }


def recognise_input(path: Path | str) -> dict[str, Any]:
    """What tells soon whether an input has changed: as `describe_input`, but for a large file or a folder the time of the last change too.

    A large file is known by that and its size, without its hash; of a folder the file that was changed last counts.
    """
    path = Path(path)
    if path.is_dir():
        return {**describe_input(path), "changed_ns": max((file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()), default=0)}
    about = path.stat() if path.is_file() else None
    if about is None or about.st_size <= LARGE:
        return describe_input(path)
    return {"path": str(path), "bytes": about.st_size, "changed_ns": about.st_mtime_ns}


def has_changed(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether an input that is still there differs from what a manifest's `describe_input` says of it; large files are known by their size alone."""
    if path.is_file():
        size = path.stat().st_size
        return size != entry.get("bytes", size) or (size <= LARGE and hash_file(path) != entry.get("sha256"))
    return path.is_dir() and describe_input(path).get("sha256_of_listing") != entry.get("sha256_of_listing")


def write_manifest(
    folder: Path | str,
    stage: Stage,
    config: Settings | None,
    inputs: Sequence[Path | str | Mapping[str, Any]],
    seed: int | None,
    extra: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``manifest.json``: all that is needed to tell how a folder was made and to make it again.

    Parameters
    ----------
    folder : an existing folder
    config : the settings as used
    inputs : files and folders that were read, or what `describe_input` has said of them
    seed : of every random choice; None where nothing was random
    extra : further entries, which must be JSON and must not repeat the standard keys
    arguments : paths that the stage was called with besides its output, by the names of its parameters; `triptych rerun` needs them
    """
    content: dict[str, Any] = {
        "triptych": installed_version(),
        "stage": stage,
        "command": [Path(sys.argv[0]).name.replace("__main__.py", "triptych"), *sys.argv[1:]],
        "folder": os.getcwd(),
        "arguments": None if arguments is None else _plain_arguments(arguments),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "config": None if config is None else config.model_dump(mode="json"),
        "inputs": [dict(item) if isinstance(item, Mapping) else describe_input(item) for item in inputs],
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "packages": {name: installed_version(name) for name in PACKAGES if installed_version(name)},
        },
    }
    repeated = content.keys() & (extra or {}).keys()
    if repeated:
        raise ValueError(f"extra entries repeat {sorted(repeated)}")
    path = Path(folder) / MANIFEST
    with output_file(path) as part:
        part.write_text(json.dumps({**content, **(extra or {})}, indent=2) + "\n", encoding="utf-8")
    return path


def is_made(out: Path | str, stage: Stage, config: Settings, arguments: Mapping[str, Any]) -> bool:
    """Whether `out` is what a stage has made with the same settings and arguments; the last process of a job array may find it so."""
    if not (Path(out) / MANIFEST).is_file():
        return False
    made = read_manifest(out)
    try:
        same = type(config).model_validate(made.get("config")).decisive() == config.decisive()
    except ValidationError:
        return False
    return is_written_by(made, stage) and same and made.get("arguments") == _plain_arguments(arguments)


def _plain_arguments(arguments: Mapping[str, Any]) -> dict[str, str | list[str] | None]:
    return {key: _as_text(value) for key, value in arguments.items()}


def _as_text(argument: Path | str | Sequence[Path | str] | None) -> str | list[str] | None:
    if argument is None or isinstance(argument, str | Path):
        return None if argument is None else str(argument)
    return [str(path) for path in argument]


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a folder that one of the stages wrote."""
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {MANIFEST}: it is not a finished result of triptych, give the folder that a command wrote") from None
    except NotADirectoryError:
        raise InputError(f"{folder} is a file, but a folder that a command of triptych wrote was expected") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): make the folder anew") from None
    if not isinstance(content, dict) or "stage" not in content:
        raise InputError(f"{path} does not name a stage, so triptych did not write it: make the folder anew")
    return content


def is_written_by(manifest: Mapping[str, Any] | None, stage: Stage) -> bool:
    """Whether a stage has written the folder of a manifest."""
    return manifest is not None and manifest.get("stage") == stage


def check_stage(folder: Path, manifest: Mapping[str, Any], wanted: Stage) -> None:
    """InputError unless the folder is one that a stage has written."""
    if not is_written_by(manifest, wanted):
        stage = manifest["stage"]
        raise InputError(f"{folder} was written by `triptych {stage}`, but one that `triptych {wanted}` wrote was expected; give that one")


def manifest_entry(manifest: dict[str, Any], *keys: str) -> Any:
    """Nested entry of a manifest; None where it is missing."""
    value: Any = manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def input_listings(manifest: Mapping[str, Any]) -> set[Any]:
    """What the folders among the inputs of a manifest are known by (`describe_input`)."""
    return {entry.get("sha256_of_listing") for entry in manifest.get("inputs") or () if isinstance(entry, dict)}


def history(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The manifest of a model, then those of what it was before it was calibrated, or had learned classes, back to its training."""
    yield manifest
    while isinstance(manifest.get("trained"), dict):
        manifest = manifest["trained"]
        yield manifest


def command_folder(manifest: dict[str, Any]) -> Path:
    """Where the command was given: relative paths in a manifest start there."""
    return Path(str(manifest.get("folder") or ""))
