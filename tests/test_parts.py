"""The same dataset, byte for byte, however its simulation was interrupted or divided: processes, parts, kills, a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_simulate import hashes
from tiny import SIMULATE, set_options
from typer.testing import CliRunner

import triptych.parallel
from triptych.cli import app
from triptych.config import SimulateConfig
from triptych.errors import InputError
from triptych.io.store import BOXES, ROWS
from triptych.parallel import map_items
from triptych.settings import load_config
from triptych.simulate import count_missing, simulate

SETTINGS = [*SIMULATE, "classes=[apoferritin, groel]"]
CONFIG = load_config(SimulateConfig, None, SETTINGS)
TOMOGRAMS = 3


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hashes(simulate(tmp_path_factory.mktemp("reference") / "data.zarr", CONFIG))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the tomograms that this process simulates, as it goes."""
    module: Any = sys.modules["triptych.simulate"]
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
    module: Any = sys.modules["triptych.simulate"]
    plain = module.simulate_rows

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(module, "simulate_rows", plain)
        rows = plain(*args)
        with pytest.MonkeyPatch.context() as other:
            other.setattr(module, "_one_at_a_time", module.threading.Lock())
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


def command_of(pid: str) -> str:
    """The command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------------------ command line


def test_command_line_says_what_is_missing(tmp_path: Path) -> None:
    words = ["simulate", str(tmp_path / "data.zarr"), *set_options(SETTINGS), "--part"]
    first, second = (CliRunner().invoke(app, [*words, part]) for part in ("1/2", "2/2"))
    assert first.stdout == "part 1/2 is done; 1 of 3 tomograms are still missing\n"
    assert second.stdout.startswith("dataset: ")


@pytest.mark.parametrize("part", ["1", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_bad_part_is_one_sentence(part: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "data.zarr"), f"--part={part}"])
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
        with pytest.raises(InputError, match="have gone"):
            list(results)
