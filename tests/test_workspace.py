"""The working folder: whoever comes second finds it done, and nothing else is left."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.errors import InputError
from triptych.workspace import Workspace, open_workspace

SETTINGS = {"seed": 1, "specimen": {"shape": (4, 5)}}


def make_result(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{}")


def write_manifest(folder: Path) -> Path:
    (folder / "manifest.json").write_text("{}")
    return folder / "manifest.json"


def at_once(function: Callable[[], object], count: int = 8) -> list[object]:
    """What `count` threads that start together get: results or errors."""
    barrier, outcomes = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        try:
            outcomes.append(function())
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("attempt", range(10))
def test_many_start_and_finish_at_once(tmp_path: Path, attempt: int) -> None:
    out = tmp_path / "out"
    assert at_once(lambda: open_workspace(out, SETTINGS, make_result)) == [Workspace(out)] * 8
    assert [path.name for path in tmp_path.iterdir()] == [".out.part"]
    workspace = Workspace(out)
    for item in (0, 7):
        workspace.mark(item)
    assert workspace.done() == {0, 7}
    assert at_once(lambda: workspace.finish(write_manifest)) == [None] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "zarr.json"]


def test_other_settings_are_named(tmp_path: Path) -> None:
    open_workspace(tmp_path / "out", SETTINGS, make_result)
    open_workspace(tmp_path / "out", json.loads(json.dumps(SETTINGS)), make_result)
    with pytest.raises(InputError, match=r"another specimen\.shape: go on with the same settings, or remove that folder"):
        open_workspace(tmp_path / "out", SETTINGS | {"specimen": {"shape": (4, 6)}}, make_result)


def test_killed_just_before_the_end(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "out", SETTINGS, make_result)
    workspace.mark(0)
    workspace.result.rename(tmp_path / "elsewhere")  # named and taken away, but the run died before it cleared up
    assert not open_workspace(tmp_path / "out", SETTINGS, make_result).done()


def test_what_a_file_system_leaves_there_is_no_item(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "out", SETTINGS, make_result)
    workspace.mark(3)
    workspace.note(3).with_name(".nfs0000000003").touch()  # NFS keeps a file under such a name that is replaced while somebody reads it
    assert workspace.done() == {3}


def test_what_is_no_working_folder_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "precious").touch()
    with pytest.raises(InputError, match="remove that folder"):
        open_workspace(tmp_path / "out", SETTINGS, make_result)
    (tmp_path / ".link.part").symlink_to(part)
    with pytest.raises(InputError, match="is a file or a link"):
        open_workspace(tmp_path / "link", SETTINGS, make_result)
    assert (part / "precious").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(InputError, match="exists already"):
        open_workspace(tmp_path / "full", SETTINGS, make_result)
    with pytest.raises(InputError, match="cannot write"):
        open_workspace(part / "precious" / "out", SETTINGS, make_result)


def test_another_run_is_refused_in_few_words(tmp_path: Path) -> None:
    before = {f"setting_{number}": number for number in range(9)}
    open_workspace(tmp_path / "out", before, make_result)
    with pytest.raises(InputError, match=r"another setting_0, another setting_1, .*another setting_4 and 4 more"):
        open_workspace(tmp_path / "out", dict.fromkeys(before, -1), make_result)
    with pytest.raises(InputError, match="unfinished run of another command: give another output"):
        open_workspace(tmp_path / "out", SETTINGS, make_result)
