"""Files that are spoiled, or made to do harm: a clear sentence, no code run, nothing written elsewhere."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from triptych.config import NetworkConfig, PredictConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.convert import write_particles
from triptych.io.em import read_em
from triptych.io.files import map_array
from triptych.io.manifest import hash_file
from triptych.io.mrc import read_mrc, write_mrc
from triptych.io.particle_lists import Known, read_particles
from triptych.io.star import write_star
from triptych.io.tomogram import open_tomogram
from triptych.particles import Particles
from triptych.recognition.model import Model, ModelCard, load_model
from triptych.recognition.network import Network
from triptych.settings import load_config
from triptych.volume import Volume

ROOT = Path(__file__).resolve().parents[1]


class Hostile:
    """What a pickle may do when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(network, ("one", "none"), voxel_size=10.0, box_size=16, contrast="bright")
    return Model(Network(network, 2), card, "cpu", "float32").save(tmp_path / "model", TrainConfig(), [])


def hash_again(model: Path) -> None:
    """Whoever gives away a hostile model gives it a manifest that fits."""
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"] = {name: hash_file(model / name) for name in manifest["files"]}
    (model / "manifest.json").write_text(json.dumps(manifest))


def change_card(model: Path, **fields: object) -> None:
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**card, **fields}))
    hash_again(model)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of the children is measured as Linux tells it")
def test_a_small_share_of_the_fuzzing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/fuzz.py", str(tmp_path / "work"), "--files", "180", "--seed", "1", "--results", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    formats = json.loads((tmp_path / "fuzz.json").read_text())["formats"]
    assert sum(tally["files"] for tally in formats.values()) == 180
    assert all(tally["read"] + tally["refused"] == tally["files"] for tally in formats.values())
    assert sum(tally["refused"] for tally in formats.values()) > 50


# ------------------------------------------------------------------------------------------------------------ no pickle


def runs_code(node: ast.AST) -> bool:
    """Whether a piece of a program could run what a file holds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return bool(
            {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"} & {getattr(node, "module", None), *(name.name for name in node.names)}
        )
    if not isinstance(node, ast.Call):
        return False
    name, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
    if name == "np.load":
        return options.get("allow_pickle") != "False"
    if name == "yaml.load":
        return options.get("Loader") != "_Loader"
    if name == "torch.load":
        return options.get("weights_only") != "True"
    return name in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "os.system")


def test_nothing_that_is_loaded_can_run_code() -> None:
    nodes = [(path.name, node) for path in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    assert not [(name, ast.unparse(node)) for name, node in nodes if runs_code(node)]
    loads = ("np.load(path)", "yaml.load(text, Loader=yaml.Loader)", "torch.load(path)", "torch.load(path, weights_only=False)")
    for line in ("import pickle", "eval(text)", *loads):
        assert any(map(runs_code, ast.walk(ast.parse(line)))), line


def test_pickles_are_not_opened(tmp_path: Path, model: Path) -> None:
    proof = tmp_path / "proof"
    np.save(tmp_path / "embedding.npy", np.array([Hostile(proof)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a whole NumPy array"):
        map_array(tmp_path / "embedding.npy", "predict again")
    torch.save({"weights": Hostile(proof)}, model / "weights.safetensors")
    hash_again(model)
    with pytest.raises(InputError, match="do not fit"):
        load_model(model)
    (model / "weights.safetensors").write_bytes(pickle.dumps(Hostile(proof)))
    hash_again(model)
    with pytest.raises(InputError, match="do not fit"):
        load_model(model)
    assert not proof.exists()


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    file, proof = tmp_path / "settings.yaml", tmp_path / "proof"
    file.write_text(f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{proof}']]\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(PredictConfig, file)
    assert not proof.exists()


def test_altered_weights_are_refused(model: Path) -> None:
    weights = bytearray((model / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "weights.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="altered after training"):
        load_model(model)


# ------------------------------------------------------------------------------------------------------- lying headers


IMPOSSIBLE = {"box_size": 10**6, "voxel_size": -1.0, "temperature": {"value": float("nan")}, "contrast": "grey", "class_names": []}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_impossible_cards(model: Path, field: str) -> None:
    change_card(model, **{field: IMPOSSIBLE[field]})
    with pytest.raises(InputError, match="makes no sense"):
        load_model(model)


def test_a_network_is_not_made_before_its_weights_agree(model: Path) -> None:
    """4,096 channels everywhere would be 30 GB of weights."""
    network = NetworkConfig(channels=(4096, 4096, 4096), blocks=(4, 4, 4)).model_dump(mode="json")
    change_card(model, network=network)
    with pytest.raises(InputError, match="do not fit"):
        load_model(model)
    change_card(model, network={**network, "blocks": [10**9, 1, 1]})
    with pytest.raises(InputError, match=r"not a model\.json"):
        load_model(model)


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    write_mrc(tmp_path / "map.mrc", Volume(np.ones((4, 4, 4), np.float32), 10.0))
    data = bytearray((tmp_path / "map.mrc").read_bytes())
    data[:12] = np.array([50_000] * 3, "<i4").tobytes()
    (tmp_path / "map.mrc").write_bytes(data)
    with pytest.raises(InputError, match="truncated or its header wrong"):
        read_mrc(tmp_path / "map.mrc")
    head = bytearray(512)
    head[0], head[3], head[4:16] = 6, 5, np.array([50_000] * 3, "<i4").tobytes()
    (tmp_path / "map.em").write_bytes(head)
    with pytest.raises(InputError, match="truncated or its header wrong"):
        read_em(tmp_path / "map.em")


def test_zarr_that_promises_too_much(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "big.zarr", mode="w")
    group.create_array("0", shape=(4096, 4096, 4096), dtype="f4", chunks=(4096, 4096, 4096))
    image = {"datasets": [{"path": "0"}]}
    group.attrs["ome"] = {"multiscales": [image]}
    with pytest.raises(InputError, match="chunks of"):
        open_tomogram(tmp_path / "big.zarr", 10.0)


# ------------------------------------------------------------------------------------------------------ path traversal


@pytest.mark.parametrize("name", ["..", "../../escape", "/tmp/escape", "a/../../../escape", "~/escape", "e\nscape", "x" * 300])
@pytest.mark.parametrize("target", ["imod", "copick", "relion5"])
def test_names_of_tomograms_lead_nowhere(tmp_path: Path, name: str, target: str) -> None:
    out = tmp_path / "a" / "b" / "out"
    out.parent.mkdir(parents=True)
    names = [name, "TS_01"]
    particles = Particles(pd.DataFrame(index=range(2)), np.ones((2, 3)), tomograms=names, classes=["../../class", "b"], pixel_sizes=np.full(2, 10.0))
    before = set(Path("/tmp").glob("escape*"))
    try:
        write_particles(out, particles, target, Known(voxel_size=10.0, tomogram_size=(9, 9, 9)))
    except InputError:
        assert not out.exists()
    assert {path for path in tmp_path.rglob("*") if path.is_file() and out not in path.parents} == set()
    assert set(Path("/tmp").glob("escape*")) == before


def test_names_of_images_lead_nowhere(tmp_path: Path, model: Path) -> None:
    """What is read may lie anywhere; what is written lies in the output."""
    from triptych.stages.predict import predict

    for name in ("escape.mrc", "elsewhere/escape.mrc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_mrc(tmp_path / name, Volume(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32), 10.0))
    (tmp_path / "project").mkdir()
    star = tmp_path / "project" / "particles.star"
    names = ["../escape.mrc", str(tmp_path / "elsewhere" / "escape.mrc")]
    write_star(star, {"particles": pd.DataFrame({"rlnTomoName": ["../..", ".."], "rlnImageName": names, "rlnPixelSize": [10.0] * 2})})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = predict(star, tmp_path / "out", model, PredictConfig(device="cpu"))
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(out in path.parents for path in after - before)
    assert len(list((out / "densities").iterdir())) == 2


def test_keys_of_zarr_lead_nowhere(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "secret", mode="w").create_array("0", shape=(4, 4, 4), dtype="f4")
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "../secret/0"}]}]}
    with pytest.raises(InputError, match="not an OME-Zarr image"):
        open_tomogram(tmp_path / "image.zarr", 10.0)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (tmp_path / ".out.part").symlink_to(precious)
    (tmp_path / "list.csv").write_text("x,y,z,tomogram,class\n1,2,3,TS_01,one\n")
    particles = read_particles(tmp_path / "list.csv")
    write_particles(tmp_path / "out", particles, "copick")
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert (precious / "file").read_text() == "precious"
