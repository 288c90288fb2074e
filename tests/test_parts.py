"""The same bytes, of a dataset or of tomograms, however their simulation was interrupted or divided: processes, parts, kills, a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import SIMULATE, hashes, set_options
from typer.testing import CliRunner

import triptych.parallel
import triptych.simulation.scene
from triptych.cli import app
from triptych.config import SimulateConfig, SpecimenConfig, TomogramConfig
from triptych.errors import InputError
from triptych.io.star import read_star
from triptych.io.store import BOXES, ROWS
from triptych.parallel import map_items
from triptych.settings import load_config
from triptych.stages.simulate import count_missing, simulate
from triptych.stages.simulate_tomograms import MAPS, simulate_tomograms
from triptych.workspace import count_unfinished

SETTINGS = [*SIMULATE, "classes=[apoferritin, groel]"]
CONFIG = load_config(SimulateConfig, None, SETTINGS)
TOMOGRAMS = 3
WHOLE_SETTINGS = ["tomograms=3", "classes=[apoferritin]", "specimen.shape=[32, 64, 64]", "workers=1"]
WHOLE = load_config(TomogramConfig, None, WHOLE_SETTINGS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hashes(simulate(tmp_path_factory.mktemp("reference") / "data.zarr", CONFIG))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the tomograms that this process simulates, as it goes."""
    module: Any = sys.modules["triptych.stages.simulate"]
    numbers: list[int] = []
    plain = module.simulate_rows

    def simulate_rows(config: SimulateConfig, index: int) -> Any:
        numbers.append(index)
        return plain(config, index)

    monkeypatch.setattr(module, "simulate_rows", simulate_rows)
    return numbers


def test_parts_in_any_order(reference: dict[str, str], simulated: list[int], tmp_path: Path) -> None:
    out = tmp_path / "data.zarr"
    progress: list[tuple[int, int]] = []
    simulate(out, CONFIG, part=(2, 2), on_progress=lambda done, total: progress.append((done, total)))
    assert simulated == [1]
    assert progress == [(0, 4), (4, 4)]
    assert not out.exists()
    assert count_missing(out, CONFIG) == (2, TOMOGRAMS)
    simulate(out, CONFIG, part=(2, 2))  # nothing is done twice
    simulate(out, CONFIG, part=(1, 2))
    assert simulated == [1, 0, 2]
    assert count_missing(out, CONFIG) == (0, TOMOGRAMS)
    simulate(out, CONFIG, part=(1, 2))  # which comes too late, and finds all done
    assert simulated == [1, 0, 2]
    assert hashes(out) == reference
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_more_parts_than_tomograms(reference: dict[str, str], tmp_path: Path) -> None:
    for number in (5, 1, 2, 4, 3):
        simulate(tmp_path / "data.zarr", CONFIG, part=(number, 5))
    assert hashes(tmp_path / "data.zarr") == reference


def test_impossible_part(tmp_path: Path) -> None:
    for part in ((0, 2), (3, 2), (1, 0)):
        with pytest.raises(InputError, match="numbered from 1 to"):
            simulate(tmp_path / "data.zarr", CONFIG, part=part)
        with pytest.raises(InputError, match="numbered from 1 to"):
            simulate_tomograms(tmp_path / "out", WHOLE, part=part)
    assert not list(tmp_path.iterdir())


def test_killed_and_started_again(reference: dict[str, str], simulated: list[int], tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, zarr
from triptych.cli import app
calls, plain = 0, zarr.Array.__setitem__
def write(self, *args):
    global calls
    calls += 1
    if calls == {len(BOXES) + len(ROWS) + 3}:  # in the middle of the second tomogram
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, *args)
zarr.Array.__setitem__ = write
app(["simulate", *sys.argv[1:]])
"""
    out = tmp_path / "data.zarr"
    killed = subprocess.run([sys.executable, "-c", code, str(out), *set_options(SETTINGS)], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".data.zarr.part"]
    chunk = tmp_path / ".data.zarr.part/result/mask/c/0/0/0/0.5f.partial"  # what Zarr leaves of a chunk that was being written
    chunk.write_text("half")
    with pytest.raises(InputError, match="another seed: go on with the same settings, or remove that folder"):
        simulate(out, CONFIG.model_copy(update={"seed": 1}))
    progress: list[int] = []
    simulate(out, CONFIG.model_copy(update={"workers": 2, "particles": 12}), part=(1, 3))  # is there already
    simulate(out, CONFIG, on_progress=lambda done, _: progress.append(done))
    assert simulated == [1, 2]
    assert progress == [4, 8, 12]
    assert hashes(out) == reference
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


@pytest.mark.parametrize("workers", [1, 3])
def test_stopped_and_started_again(reference: dict[str, str], workers: int, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    config = CONFIG.model_copy(update={"workers": workers})
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "data.zarr", config, on_progress=stop)
    assert count_missing(tmp_path / "data.zarr", CONFIG)[0] < TOMOGRAMS
    assert hashes(simulate(tmp_path / "data.zarr", config)) == reference


def test_another_process_was_faster(reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two runs of all tomograms: the slower one finds its working folder gone, and the dataset there."""
    out = tmp_path / "data.zarr"
    module: Any = sys.modules["triptych.stages.simulate"]
    plain = module.simulate_rows

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(module, "simulate_rows", plain)
        rows = plain(*args)
        with pytest.MonkeyPatch.context() as other:
            other.setattr(triptych.simulation.scene, "_one_at_a_time", threading.Lock())
            simulate(out, CONFIG)
        return rows

    monkeypatch.setattr(module, "simulate_rows", overtaken)
    assert simulate(out, CONFIG) == out
    assert hashes(out) == reference
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_workers_end_with_their_parent() -> None:
    code = "import time; from triptych.parallel import map_items; list(map_items(time.sleep, [600, 600], 2))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers: list[str] = []
    deadline = time.monotonic() + 300
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        workers = [pid for pid in children.read_text().split() if "spawn_main" in command_of(pid)]
    time.sleep(1)
    parent.kill()
    parent.wait()
    assert len(workers) == 2
    while any("spawn_main" in command_of(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_workers_leave_ctrl_c_to_their_parent_from_the_start() -> None:
    """Not only once they have imported what ignores it: an interrupted import would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for blocked in map_items(partial(signal.pthread_sigmask, signal.SIG_BLOCK), [(), ()], workers=2):
        assert signal.SIGINT in blocked
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def command_of(pid: str) -> str:
    """The command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# --------------------------------------------------------------------------------------------------------- whole tomograms


@pytest.fixture(scope="module")
def whole_reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hashes(simulate_tomograms(tmp_path_factory.mktemp("whole") / "tomograms", WHOLE))


@pytest.fixture
def simulated_whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the whole tomograms that this process simulates, as it goes."""
    module: Any = sys.modules["triptych.stages.simulate_tomograms"]
    numbers: list[int] = []
    plain = module.simulate_maps

    def simulate_maps(folder: Path, name: str, config: TomogramConfig, number: int) -> Any:
        numbers.append(number)
        return plain(folder, name, config, number)

    monkeypatch.setattr(module, "simulate_maps", simulate_maps)
    return numbers


def test_tomograms_of_two_workers(whole_reference: dict[str, str], tmp_path: Path) -> None:
    out = simulate_tomograms(tmp_path / "out", WHOLE.model_copy(update={"workers": 2}))
    assert hashes(out) == whole_reference
    assert len(whole_reference) == 3 * len(MAPS) + 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tomograms_in_parts(whole_reference: dict[str, str], simulated_whole: list[int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    progress: list[tuple[int, int]] = []
    simulate_tomograms(out, WHOLE, part=(2, 2), on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(0, 1), (1, 1)]
    assert not out.exists()
    assert count_unfinished(out, 3) == 2
    simulate_tomograms(out, WHOLE, part=(2, 2))  # nothing is done twice
    simulate_tomograms(out, WHOLE, part=(1, 2))
    assert simulated_whole == [1, 0, 2]
    assert count_unfinished(out, 3) == 0
    assert hashes(out) == whole_reference
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tomograms_killed_and_started_again(whole_reference: dict[str, str], simulated_whole: list[int], tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from triptych.cli import app
plain = pathlib.Path.replace
def replace(self, target):
    if str(target).endswith("classes/tomogram_0001.mrc"):  # two of the four maps are there
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, target)
pathlib.Path.replace = replace
app(["simulate-tomograms", *sys.argv[1:]])
"""
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", code, str(out), *set_options(WHOLE_SETTINGS)], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".out.part"]
    assert count_unfinished(out, 3) == 2
    with pytest.raises(InputError, match="another seed: go on with the same settings, or remove that folder"):
        simulate_tomograms(out, WHOLE.model_copy(update={"seed": 1}))
    progress: list[int] = []
    simulate_tomograms(out, WHOLE.model_copy(update={"workers": 2}), part=(1, 3))  # is there already
    simulate_tomograms(out, WHOLE, on_progress=lambda done, _: progress.append(done))
    assert simulated_whole == [1, 2]
    assert progress == [1, 2, 3]
    assert hashes(out) == whole_reference
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_process_made_the_tomograms(whole_reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    module: Any = sys.modules["triptych.stages.simulate_tomograms"]
    plain = module.simulate_maps

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(module, "simulate_maps", plain)
        with pytest.MonkeyPatch.context() as other:
            other.setattr(triptych.simulation.scene, "_one_at_a_time", threading.Lock())
            simulate_tomograms(out, WHOLE)
        return plain(*args)

    monkeypatch.setattr(module, "simulate_maps", overtaken)
    assert simulate_tomograms(out, WHOLE) == out
    assert hashes(out) == whole_reference
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tomogram_without_particles(tmp_path: Path) -> None:
    specimen = SpecimenConfig(shape=(32, 64, 64), occupancy=(1e-9, 1e-9))
    out = simulate_tomograms(tmp_path / "out", WHOLE.model_copy(update={"specimen": specimen, "tomograms": 1}))
    assert read_star(out / "particles.star")["particles"].empty
    assert len(read_star(out / "tomograms.star")["global"]) == 1


# ------------------------------------------------------------------------------------------------------------ command line


def test_command_line_says_what_is_missing(tmp_path: Path) -> None:
    words = ["simulate", str(tmp_path / "data.zarr"), *set_options(SETTINGS), "--part"]
    first, second = (CliRunner().invoke(app, [*words, part]) for part in ("1/2", "2/2"))
    assert first.stdout == "part 1/2 is done; 1 of 3 tomograms are still missing\n"
    assert second.stdout.startswith("dataset: ")


def test_command_line_says_which_tomograms_are_missing(tmp_path: Path) -> None:
    words = ["simulate-tomograms", str(tmp_path / "out"), *set_options(WHOLE_SETTINGS), "--part"]
    first, second = (CliRunner().invoke(app, [*words, part]) for part in ("1/2", "2/2"))
    assert first.stdout == "part 1/2 is done; 1 of 3 tomograms are still missing\n"
    assert second.stdout.startswith("tomograms: ")


@pytest.mark.parametrize("command", ["simulate", "simulate-tomograms"])
@pytest.mark.parametrize("part", ["1", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_bad_part_is_one_sentence(command: str, part: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [command, str(tmp_path / "data.zarr"), f"--part={part}"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: --part got '{part}', but K/N was expected")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------------- cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes, of which one that dies is not trusted again."""
    distributed = pytest.importorskip("distributed", reason="needs distributed: pip install 'triptych[dask]'")
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        yield local
        local.close()


def test_cluster_gives_the_same_bytes(cluster: Any, reference: dict[str, str], tmp_path: Path) -> None:
    out = simulate(tmp_path / "data.zarr", CONFIG, scheduler=cluster.scheduler_address)
    assert hashes(out) == reference


def test_cluster_gives_the_same_tomograms(cluster: Any, whole_reference: dict[str, str], tmp_path: Path) -> None:
    out = simulate_tomograms(tmp_path / "out", WHOLE, scheduler=cluster.scheduler_address)
    assert hashes(out) == whole_reference


def test_errors_of_a_cluster_are_sentences(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="2 came"):
        list(map_items(refuse, [2], scheduler=cluster.scheduler_address))
    with pytest.raises(InputError, match="died again and again"):
        list(map_items(os._exit, [1], scheduler=cluster.scheduler_address))
    monkeypatch.setattr(triptych.parallel, "SECONDS_TO_CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://127.0.0.1:1"):
        with pytest.raises(InputError, match=f"no Dask scheduler answers at {address}"):
            list(map_items(refuse, [2], scheduler=address))


def refuse(item: int) -> None:
    raise InputError(f"{item} came")


def test_cluster_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"triptych\[dask\]"):
        simulate(tmp_path / "data.zarr", CONFIG, scheduler="tcp://127.0.0.1:8786")
    assert not list(tmp_path.iterdir())


def test_cluster_that_has_lost_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not waited for for ever."""
    distributed = pytest.importorskip("distributed", reason="needs distributed: pip install 'triptych[dask]'")
    monkeypatch.setattr(triptych.parallel, "SECONDS_WITHOUT_WORKERS", 1)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local:
        results = map_items(time.sleep, [0, 600], scheduler=local.scheduler_address)
        next(results)
        local.sync(local.workers[0].close)
        with pytest.raises(InputError, match=r"have gone|died again"):
            list(results)
