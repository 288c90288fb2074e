"""Outputs that are whole or absent: written under another name, and renamed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from triptych.errors import InputError
from triptych.io.files import disk_errors


def partial_name(path: Path) -> Path:
    """What an output is called until it is finished."""
    return path.with_name(f".{path.name}.part")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one; a link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prepare(path: Path, make: Callable[[Path], None]) -> Path:
    """Make an empty file or folder beside an output, and its parent; what a killed run left behind is cleared."""
    part = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(part)
        make(part)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): choose a place that you may write to") from None
    return part


@contextmanager
def _renamed_when_done(part: Path, path: Path) -> Iterator[None]:
    """Give ``part`` its final name when the block ends well; remove it otherwise."""
    finished = False
    try:
        with disk_errors(path):
            yield
            part.replace(path)
        finished = True
    finally:
        if not finished:
            remove(part)


def check_output_folder(path: Path) -> Path:
    """The absolute path of an output; InputError if it is a file, a link or a folder with something in it: nothing is overwritten."""
    if not str(path).strip(" ."):
        raise InputError(f"the output is named '{path}', which is no new folder: give it a name")
    path = path.absolute()
    if path.parent.is_file():
        raise InputError(f"cannot write {path}, for {path.parent} is a file: choose another place")
    if not path.name or path.name == "..":
        raise InputError(f"{path} cannot be an output folder: name a new folder")
    if path.is_symlink() or path.is_file():
        raise InputError(f"the output {path} is a file or a link, but a folder is to be written: choose another name or delete it")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"the output folder {path} exists already: choose another or delete it")
    return path


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """InputError where an output is to lie in a folder that is read, which it would change: no run could go on, and none follow."""
    for folder in map(Path.resolve, inputs):
        if folder.is_dir() and out.resolve().is_relative_to(folder):
            raise InputError(f"the output {out} is to lie in {folder}, which is read: choose a place outside of it")


@contextmanager
def output_folder(path: Path | str) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``; it gets its final name only when the block ends well.

    An error, or Ctrl-C, removes the temporary folder. What a killed run left of an earlier one is replaced.

    Raises
    ------
    InputError
        If ``path`` is a file or a folder with something in it: results are never mixed or overwritten.
    """
    path = check_output_folder(Path(path))
    part = _prepare(path, Path.mkdir)
    with _renamed_when_done(part, path):
        yield part


@contextmanager
def output_file(path: Path | str) -> Iterator[Path]:
    """Write a temporary file beside ``path``; it replaces ``path`` only when the block ends well."""
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError(f"the output {path} is a folder, but a file is to be written: choose another name")
    part = _prepare(path, Path.touch)
    with _renamed_when_done(part, path):
        yield part
