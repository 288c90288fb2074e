"""A working folder beside an output, which several processes or machines fill at once, and with which a killed run goes on.

There are no locks, which shared file systems often lack: every step is one rename or one new file, and whoever comes second
finds it done. In the folder lie the settings that the run was started with, a file for each item that is finished (empty, or
with what is to be remembered of it), and the result, which gets its final name when there is nothing left to do.
"""

from __future__ import annotations

import itertools
import json
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.device import memory_errors, share_cores
from triptych.errors import InputError
from triptych.io.files import disk_errors
from triptych.io.manifest import hash_file, installed_version
from triptych.io.output_names import MANIFEST
from triptych.io.outputs import check_output_folder, partial_name
from triptych.parallel import Progress, map_items, said_already

SETTINGS = "settings.json"
DONE = "done"
DESK = "desk"
RESULT = "result"
KEPT = "kept.npz"
CLEARINGS = 5
MOST_NAMED = 5
"""Settings that a refusal names."""


class Opened(Protocol):
    """What a stage has opened, to do its items with."""

    @property
    def identity(self) -> Hashable:
        """What is the same wherever the same has been opened."""


@lru_cache(maxsize=1)
def reopen(opener: Callable[..., Opened], arguments: tuple[Hashable, ...], workers: int, identity: Hashable, state: str = "") -> Opened:
    """What another process has opened, opened here once more; InputError where it is not the same.

    For a `__reduce__`: so what is sent with every item is short, and a process that does many of them opens their inputs once.

    Parameters
    ----------
    opener : function of a module
    workers : processes that share the cores of a machine
    identity : of what the other process has opened
    state : another one where the inputs are to be opened anew although they have the same names
    """
    share_cores(workers)
    with said_already():
        opened = opener(*arguments)
    if opened.identity != identity:
        named = ", ".join(str(argument) for argument in arguments if isinstance(argument, Path))
        what = f"{named}, or what is read with it, is on {platform.node()} not what the run was started with"
        how = "start the run anew if that has changed, or else install the same triptych on every machine, and let all of them see the same files"
        raise InputError(f"{what}: {how}")
    return opened


@dataclass(frozen=True)
class Workspace:
    """The working folder of the output `out`; `is_new` where this process has made it."""

    out: Path
    is_new: bool = field(default=False, compare=False)

    @property
    def folder(self) -> Path:
        return partial_name(self.out)

    @property
    def result(self) -> Path:
        """The unfinished output; InputError where this machine does not see it."""
        result = self.folder / RESULT
        if not result.is_dir():
            raise InputError(f"{result} is not there on {platform.node()}: every machine must see the output's folder under this very path")
        return result

    @property
    def identity(self) -> str:
        """Another one for each run that has other settings or inputs."""
        return hash_file(self.folder / SETTINGS)

    @contextmanager
    def desk(self) -> Iterator[Path]:
        """A folder of one's own in which to make what is then moved into the result; removed at the end."""
        desk = _unique(self.result.with_name(DESK))
        desk.mkdir()
        try:
            yield desk
        finally:
            shutil.rmtree(desk, ignore_errors=True)

    def take_in(self, desk: Path) -> None:
        """Put the files in the folders of a desk into the folders of the same names in the result."""
        for folder in [path for path in desk.iterdir() if path.is_dir()]:
            (self.result / folder.name).mkdir(exist_ok=True)
            for file in folder.iterdir():
                file.replace(self.result / folder.name / file.name)

    def mark(self, item: int, note: Path | None = None) -> None:
        """Say that all of an item is in the result; a note, a file on a desk, becomes what is kept of it."""
        if note is None:
            self.note(item).touch()
        else:
            note.replace(self.note(item))

    def keep(self, item: int, desk: Path, compressed: bool = False, **arrays: Any) -> None:
        """Say that all of an item is in the result, and keep arrays of it until all items are there."""
        save = np.savez_compressed if compressed else np.savez
        save(desk / KEPT, **arrays)
        self.mark(item, desk / KEPT)

    def kept(self, item: int, *names: str) -> dict[str, NDArray[Any]]:
        """The arrays that were kept of an item, or those of some names."""
        with np.load(self.note(item), allow_pickle=False) as note:
            return {name: note[name] for name in names or note.files}

    def note(self, item: int) -> Path:
        """The file that says that an item is finished."""
        return self.folder / DONE / str(item)

    def done(self) -> set[int]:
        """The items that are finished."""
        return {int(file.name) for file in (self.folder / DONE).iterdir() if file.name.isdecimal()}  # NFS may leave files of its own there

    def fill(
        self,
        items: Sequence[int],
        write: Callable[[int], int],
        size: Callable[[int], int],
        workers: int,
        scheduler: str | None = None,
        on_progress: Progress | None = None,
        then: Sequence[int] = (),
    ) -> None:
        """Do those of the items that are not finished.

        Parameters
        ----------
        write : puts an item into the result, marks it and returns its size; picklable
        size : how much an item counts in the progress
        workers, scheduler : as `map_items` has them
        on_progress : called with (done, in all), first with what an earlier run has finished
        then : items that need the others, and are done after them
        """
        finished, every = self.done(), [*items, *then]
        total, done = sum(map(size, every)), sum(size(item) for item in every if item in finished)
        waves = ([item for item in wave if item not in finished] for wave in (items, then))
        for count in itertools.chain([0], *(map_items(write, wave, workers, scheduler) for wave in waves)):
            done += count
            if on_progress:
                on_progress(done, total)

    def is_finished(self) -> bool:
        """Whether the result, which has its manifest only then, has got its final name, perhaps from another process."""
        return (self.out / MANIFEST).is_file()

    @contextmanager
    def until_finished(self, keep: bool = False) -> Iterator[None]:
        """Work on the result; what goes wrong because another process had the same to do, and was faster, is no error.

        Otherwise the working folder is removed where this process has made it and nothing is done, unless it is to be kept.
        """
        try:
            with disk_errors(self.out, "what is finished is kept"), memory_errors():
                yield
        except (InputError, OSError):
            if self.is_finished():
                self.clear()
                return
            if self.is_new and not keep and not self.done():
                self.clear()
            raise

    def finish(self, write: Callable[[Path], object]) -> None:
        """Put the files that are the work of all, the manifest among them, into the result, and give that its final name."""
        try:
            with self.desk() as desk:
                write(desk)
                for file in sorted(desk.iterdir(), key=lambda file: file.name == MANIFEST):  # the manifest last
                    file.replace(self.folder / RESULT / file.name)
            (self.folder / RESULT).replace(self.out)
        except (InputError, OSError):
            if not self.is_finished():
                raise
        self.clear()

    def clear(self) -> None:
        """Remove the working folder: of a finished output, or where nothing has been done."""
        rubbish = _unique(self.folder)
        with suppress(OSError):  # another process is doing it
            self.folder.rename(rubbish)
            for attempt in range(CLEARINGS):  # somebody may just be making a desk in it
                time.sleep(0.1 * attempt)
                shutil.rmtree(rubbish, ignore_errors=True)
                if not rubbish.exists():
                    break


def open_workspace(out: Path, settings: Mapping[str, Any], create: Callable[[Path], object]) -> Workspace:
    """The working folder of `out`, made if there is none; `create` makes an empty result under the path that it is given.

    The settings, and the version of triptych, are what a run is to have in common from its start to its end, wherever it is worked on.

    Raises
    ------
    InputError
        If `out` exists already, or the folder is that of a run with other settings.
    """
    workspace, settings = Workspace(check_output_folder(out)), {"version": installed_version(), **settings}
    _check_folder(workspace)
    if not workspace.folder.is_dir():
        workspace = replace(workspace, is_new=_make(workspace, settings, create))
    if workspace.is_finished():  # just now, by another process
        workspace.clear()
        check_output_folder(workspace.out)
    _check_settings(workspace, settings)
    return workspace


def choose_items(total: int, part: tuple[int, int] | None) -> range:
    """The items of the k-th of n parts, for `part` (k, n) with k from 1; all of them where there are no parts."""
    number, parts = part or (1, 1)
    if not 1 <= number <= parts:
        raise InputError(f"part {number} of {parts} was asked for, but the parts are numbered from 1 to {parts}")
    return range(total)[number - 1 :: parts]


def count_unfinished(out: Path | str, total: int) -> int:
    """How many of an output's items are still to be done."""
    out = Path(out).absolute()
    try:
        return total - len(Workspace(out).done())
    except FileNotFoundError:
        return 0 if out.exists() else total


def _unique(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}")


def _check_folder(workspace: Workspace) -> None:
    folder = workspace.folder
    if folder.is_symlink() or folder.is_file():
        raise InputError(f"{folder} is a file or a link, but a working folder is to be there: remove it")
    if (folder / SETTINGS).is_file() and not (folder / RESULT).is_dir() and not workspace.is_finished():
        workspace.clear()  # of a run that was killed after its result had got its name


def _make(workspace: Workspace, settings: Mapping[str, Any], create: Callable[[Path], object]) -> bool:
    """Make the working folder under another name and rename it; False if somebody else has made one meanwhile."""
    new = _unique(workspace.folder)
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        (new / DONE).mkdir(parents=True)
        (new / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {workspace.out} ({error.strerror or error}): choose a place that you may write to") from None
    try:
        with disk_errors(workspace.out):
            create(new / RESULT)
            new.rename(workspace.folder)
        return True
    except (InputError, OSError):
        if not workspace.folder.is_dir():
            raise
        return False
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_settings(workspace: Workspace, settings: Mapping[str, Any]) -> None:
    file = workspace.folder / SETTINGS
    how = "remove that folder to start anew"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{workspace.folder} is no working folder that this version of triptych can go on with: {how}") from None
    wanted = json.loads(json.dumps(settings))
    if found == wanted:
        return
    if found.get("version") == wanted.get("version") and found.keys() != wanted.keys():
        raise InputError(f"{workspace.folder} holds an unfinished run of another command: give another output, or {how}")
    names = differing(found, wanted)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    named = ", another ".join(names[:MOST_NAMED]) + more
    raise InputError(f"{workspace.folder} holds a run that was started with another {named}: go on with the same settings, or {how}")


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings of two runs that are not the same."""
    before, now = dict(_flatten(found)), dict(_flatten(wanted))
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _flatten(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    if not isinstance(tree, dict):
        yield name, tree
        return
    for key, value in tree.items():
        yield from _flatten(value, f"{name}.{key}" if name else str(key))
