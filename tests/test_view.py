"""What napari is given to show, and, where napari is installed, that it shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pick import PLACES, blobs, seeing_model
from tiny import write_mrc

import triptych
from triptych.config import PickConfig
from triptych.errors import InputError
from triptych.io.star import read_star, write_star
from triptych.stages.pick import pick
from triptych.stages.view import add_layers, open_reader, picked_layers, show_picks

NO_NAPARI = "needs napari: pip install -e '.[napari]'"


@pytest.fixture(scope="module")
def picks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    paths = [write_mrc(folder / "tomograms" / f"{name}.mrc", blobs(10.0), 10.0) for name in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("triptych.stages.pick"), "load_model", seeing_model)
        return pick(paths, folder / "picks", config=PickConfig(write_densities=True, threshold=0.5))


def test_the_layers_lie_over_one_another(picks: Path) -> None:
    layers = {settings["name"]: (data, settings, kind) for data, settings, kind in picked_layers(picks)}
    assert list(layers) == ["a", "recovered densities", "classes", "instances", "particles"]
    places, settings, kind = layers["particles"]
    assert kind == "points"
    assert sorted(np.linalg.norm(places[:, None, ::-1] - PLACES, axis=-1).argmin(1)) == list(range(len(PLACES)))
    labels, of_labels, _ = layers["classes"]
    grey, of_grey, _ = layers["a"]
    for place, colour in zip(places, settings["face_color"], strict=True):
        voxel = tuple(np.round(place / of_labels["scale"]).astype(int))
        assert of_labels["colormap"][int(labels[voxel])] == pytest.approx(tuple(colour))
        assert grey[voxel] < -0.5
    low, high = of_grey["contrast_limits"]
    assert grey.min() <= low < high <= grey.max()
    assert picked_layers(picks, "b")[0][1]["name"] == "b"


def test_a_binned_tomogram_lies_where_its_labels_lie(picks: Path, tmp_path: Path) -> None:
    """Tables that count in the pixels of the tilt series say how much coarser the tomogram's voxels are."""
    copy = shutil.copytree(picks, tmp_path / "picks")
    star = copy / "tomograms.star"
    table = read_star(star)["global"]
    paths = [str(picks.parent / "tomograms" / f"{name}.mrc") for name in table["rlnTomoName"]]
    binned = table.assign(rlnTomoTiltSeriesPixelSize=2.5, rlnTomoTomogramBinning=4.0, rlnTomoReconstructedTomogram=paths)
    write_star(star, {"global": binned})
    layers = {settings["name"]: settings for _, settings, _ in picked_layers(copy)}
    assert layers["a"]["scale"] == layers["classes"]["scale"] == (10.0,) * 3


def test_what_is_no_folder_of_picks(picks: Path, tmp_path: Path) -> None:
    assert open_reader(str(tmp_path)) is None
    assert open_reader([str(picks)]) is None
    reader = open_reader(str(picks))
    assert reader is not None
    assert len(reader(str(picks))) == 5
    with pytest.raises(InputError, match="no output of `triptych pick`"):
        picked_layers(tmp_path)
    with pytest.raises(InputError, match="tomogram called c: it has a, b"):
        picked_layers(picks, "c")


def test_napari_takes_the_layers(picks: Path) -> None:
    """Without a window, which needs OpenGL."""
    components = pytest.importorskip("napari.components", reason=NO_NAPARI)
    viewer = components.ViewerModel()
    add_layers(viewer, picked_layers(picks))
    assert [layer.name for layer in viewer.layers] == ["a", "recovered densities", "classes", "instances", "particles"]
    assert len(viewer.layers["particles"].data) == len(PLACES)
    # At a particle's place in the world, the label map has its class and the tomogram something dark.
    classes, tomogram = viewer.layers["classes"], viewer.layers["a"]
    for place in viewer.layers["particles"].data:
        assert classes.data[tuple(np.round(classes.world_to_data(place)).astype(int))] == 1
        assert tomogram.data[tuple(np.round(tomogram.world_to_data(place)).astype(int))] < -0.5


def test_napari_knows_the_plugin() -> None:
    npe2 = pytest.importorskip("npe2", reason=NO_NAPARI)
    manifest = npe2.PluginManifest.from_file(Path(triptych.__file__).parent / "napari.yaml")
    command = manifest.contributions.commands[0]
    assert command.python_name == "triptych.stages.view:open_reader"
    assert [reader.command for reader in manifest.contributions.readers] == [command.id]


def test_a_window_shows_it(picks: Path, tmp_path: Path) -> None:
    pytest.importorskip("napari", reason=NO_NAPARI)
    code = (
        "import sys; from triptych.stages.view import show_picks; from PIL import Image;"
        "viewer = show_picks(sys.argv[1]); viewer.dims.set_point(0, float(sys.argv[3]));"
        "from qtpy.QtWidgets import QApplication; QApplication.processEvents(); viewer.reset_view();"
        "QApplication.processEvents(); Image.fromarray(viewer.screenshot()).save(sys.argv[2]); viewer.close()"
    )
    picture = tmp_path / "picture.png"
    # In a process of its own, which may end hard where there is no OpenGL.
    run = subprocess.run([sys.executable, "-c", code, str(picks), str(picture), str(PLACES[0, 2])], capture_output=True, text=True, timeout=240)
    if "QOpenGLWidget" in run.stderr or "could not connect to display" in run.stderr:
        pytest.skip("needs a display with OpenGL: xvfb-run python -m pytest")
    assert run.returncode == 0, run.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    red, green, blue = pixels.reshape(-1, 3).T
    assert (np.abs(red - green) + np.abs(green - blue) > 100).any()  # a colour among the grey values


def test_without_napari_it_is_said_how_to_get_it(picks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(InputError, match=r"pip install 'triptych\[napari\]'"):
        show_picks(picks)
