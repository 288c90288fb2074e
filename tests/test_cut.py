"""Training data cut from annotated tomograms: the truth that is written is the annotation."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from tiny import TRAIN, set_options, write_mrc
from typer.testing import CliRunner

from triptych.cli import app
from triptych.config import AugmentConfig, CutConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.convert import convert_particles
from triptych.io.manifest import read_manifest
from triptych.io.mrc import read_mrc
from triptych.io.particle_lists import Known
from triptych.io.star import write_star
from triptych.io.store import Store, open_store
from triptych.io.tomogram import find_tomograms
from triptych.settings import load_config
from triptych.stages.cut import cut
from triptych.stages.train import train
from triptych.training.annotations import Annotations, assign_voxels, find_pieces, read_annotations
from triptych.training.dataset import find_slab, split_rows, tile_rows, warn_of_missing_signal

SHAPE = (32, 56, 64)
PLACES = {1: [(12, 14, 15), (16, 40, 20)], 2: [(15, 18, 46)], 7: [(20, 44, 50)]}
"""z, y, x of balls by their label; 7 is a membrane."""
RADIUS = 5
NAMES = {1: "small", 2: "large", 7: "membrane"}
CONFIG = CutConfig(names=NAMES, particles_per_tomogram=20, tiles_per_tomogram=6, box_size=16, max_shift=20, none_share=0.2, none_distance=90)


def label_map() -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    labels = np.zeros(SHAPE)
    for label, places in PLACES.items():
        for place in places:
            labels[np.linalg.norm(grid - place, axis=-1) <= RADIUS] = label
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two dark tomograms whose annotated voxels stand out."""
    labels = label_map()
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 0.3, SHAPE)
        write_mrc(tmp_path / f"tomograms/t{number}.mrc", noise - (labels > 0), 10.0)
        write_mrc(tmp_path / f"labels/t{number}_labels.mrc", labels, 10.0)
    return tmp_path


def write_list(path: Path) -> Path:
    rows = [f"t{number},{x * 10},{y * 10},{z * 10},{NAMES[label]}" for number in range(2) for label in (1, 2) for z, y, x in PLACES[label]]
    path.write_text("tomogram,x,y,z,class\n" + "\n".join(rows) + "\n")
    return path


def check(store: Store, names: tuple[str, ...]) -> None:
    """Every box shows its particle where the mask and the shift say."""
    assert store.class_names == ("large", "small", "none")
    assert store.label_names == names
    boxes, masks, labels, shifts = (store[name][:] for name in ("subtomogram", "mask", "label", "shift"))
    for box, mask, label, shift in zip(boxes.astype(float), masks > 0, labels, shifts, strict=True):
        if label == 2:
            assert not mask.any()
            continue
        assert box[mask].mean() > box[~mask].mean() + 1
        middle = np.argwhere(mask).mean(0)[::-1] - 8
        if mask.sum() > 500:  # not cut off by the box
            assert np.allclose(middle * 10, shift, atol=6)
        assert np.linalg.norm(shift) <= 26 * 3**0.5
    assert {0, 1, 2} == set(labels)
    tiles, truth, centres = (store[f"tiles/{name}"][:] for name in ("subtomogram", "labels", "centres"))
    assert tiles[truth > 0].mean() > tiles[truth == 0].mean() + 1
    assert (truth[centres > 0] > 0).all()
    assert (centres[truth == 3] == 0).all()


def test_label_maps_alone(folder: Path) -> None:
    out = cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=CONFIG)
    store = open_store(out)
    check(store, ("large", "small", "membrane"))
    assert set(store["tiles/labels"][:].ravel()) <= {0, 1, 2, 3}
    again = cut([folder / "tomograms"], folder / "again.zarr", labels=folder / "labels", config=CONFIG)
    assert np.array_equal(open_store(again)["subtomogram"][:], store["subtomogram"][:])


def test_a_table_beside_the_label_maps_names_their_numbers_and_is_an_input(folder: Path) -> None:
    table = pd.DataFrame({"rlnClassNumber": list(NAMES), "triptychClass": list(NAMES.values())})
    write_star(folder / "classes.star", {"classes": table})
    out = cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=CONFIG.model_copy(update={"names": {}}))
    assert set(open_store(out).label_names) == set(NAMES.values())
    assert str(folder / "classes.star") in [given["path"] for given in read_manifest(out)["inputs"]]


def test_list_and_label_maps(folder: Path) -> None:
    particles = write_list(folder / "particles.csv")
    out = cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", particles=particles, config=CONFIG)
    check(open_store(out), ("large", "small", "membrane"))


def test_numbers_without_names_beside_names_of_a_list_are_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else a class and the number that marks its voxels are taken for two."""
    particles = write_list(folder / "particles.csv")
    nameless = CONFIG.model_copy(update={"names": {1: "small", 7: "membrane"}})
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", particles=particles, config=nameless))
    assert store.class_names == ("class_2", "large", "small", "none")
    assert "so it is of the class class_2" in caplog.text
    assert "--set names=" in caplog.text


def test_list_alone_draws_balls(folder: Path) -> None:
    particles = write_list(folder / "particles.csv")
    config = CONFIG.model_copy(update={"radius": {"small": 50.0, "large": 50.0}})
    check(open_store(cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=config)), ("large", "small"))
    with pytest.raises(InputError, match="radius names no radius for"):
        cut([folder / "tomograms"], folder / "other.zarr", particles=particles, config=CONFIG)
    assert not (folder / "other.zarr").exists()


@pytest.mark.parametrize("radius", [5.0, 1e5])
def test_radius_beyond_the_tomogram_or_within_a_voxel_is_refused(folder: Path, radius: float) -> None:
    config = CONFIG.model_copy(update={"radius": {"small": 50.0, "large": radius}})
    with pytest.raises(InputError, match=f"the radius of large is {radius:g} Å, but a voxel"):
        cut([folder / "tomograms"], folder / "own.zarr", particles=write_list(folder / "particles.csv"), config=config)


def test_copick_project_states_its_radii(folder: Path) -> None:
    """Of what the settings say nothing about."""
    convert_particles(write_list(folder / "particles.csv"), folder / "project", "copick")
    file = folder / "project/config.json"
    config = json.loads(file.read_text())
    for thing in config["pickable_objects"]:
        thing["radius"] = {"small": 500.0, "large": 50.0}[thing["name"]]
    file.write_text(json.dumps(config))
    small = CONFIG.model_copy(update={"radius": {"small": 50.0}})
    check(open_store(cut([folder / "tomograms"], folder / "own.zarr", particles=folder / "project", config=small)), ("large", "small"))


@pytest.mark.parametrize("with_maps", [False, True])
def test_listed_rows_that_are_no_particles_are_left_out(with_maps: bool, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A membrane in the list changes nothing but for a warning."""
    particles = write_list(folder / "particles.csv")
    config = CONFIG.model_copy(update={"radius": {"small": 50.0, "large": 50.0}})
    labels = folder / "labels" if with_maps else None
    plain = open_store(cut([folder / "tomograms"], folder / "plain.zarr", labels=labels, particles=particles, config=config))
    assert "not_particles" not in caplog.text
    head, *rows = particles.read_text().splitlines()
    particles.write_text("\n".join([head, "t0,500,440,200,membrane", *rows, "t1,500,440,200,membrane"]) + "\n")
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=labels, particles=particles, config=config))
    assert caplog.text.count("not_particles") == 1
    assert store.class_names == plain.class_names
    for name in ("subtomogram", "mask", "label", "position"):
        assert np.array_equal(store[name][:], plain[name][:])


def test_listed_places_outside_the_tomogram_are_refused(folder: Path) -> None:
    """Wholly outside, and only by the width of a box: at the edge a particle may be half seen."""
    particles = write_list(folder / "particles.csv")
    text, config = particles.read_text(), CONFIG.model_copy(update={"radius": {"small": 50.0, "large": 50.0}})
    particles.write_text(text + "t1,5000,100,100,small\n")
    with pytest.raises(InputError, match=r"row 7 of .*particles\.csv .* lies outside .*t1\.mrc, at voxel \(500, 10, 10\) of \(64, 56, 32\)"):
        cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=config)
    assert not (folder / ".own.zarr.part").exists()
    particles.write_text(text + "t1,660,100,100,small\n")
    cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=config)


@pytest.mark.parametrize("origin", [(5000.0, 5000.0, 5000.0), (-5000.0, 0.0, 0.0)])
def test_listed_places_count_from_the_first_voxel_wherever_that_lies(origin: tuple[float, float, float], folder: Path) -> None:
    particles = write_list(folder / "particles.csv")
    for number in range(2):
        with mrcfile.open(folder / f"tomograms/t{number}.mrc", "r+") as file:
            file.header.origin = origin
    config = CONFIG.model_copy(update={"radius": {"small": 50.0, "large": 50.0}, "model_voxel_size": 12.5})
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=config))
    check(store, ("large", "small"))
    assert (store["position"][:] < 700).all()
    particles.write_text(particles.read_text() + "t1,5000,100,100,small\n")
    with pytest.raises(InputError, match="lies outside"):
        cut([folder / "tomograms"], folder / "other.zarr", particles=particles, config=config)


@pytest.mark.parametrize("listed", [("t0", "t1"), ("t1",)])
def test_nothing_is_not_where_the_label_map_shows_an_unlisted_particle(listed: tuple[str, ...], folder: Path) -> None:
    """A list of one class only, or of one tomogram only, does not make the others' particles background; a membrane is."""
    labels = np.zeros(SHAPE)
    labels[:8, :8, :8], labels[8:], labels[:8, 30:, 30:] = 1, 2, 7
    for number in range(2):
        write_mrc(folder / f"labels/t{number}_labels.mrc", labels, 10.0)
    (folder / "list.csv").write_text("tomogram,x,y,z,class\n" + "".join(f"{name},40,40,40,small\n" for name in listed))
    config = CONFIG.model_copy(update={"none_share": 0.8})
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", particles=folder / "list.csv", config=config))
    centres = np.round(store["position"][:][store["label"][:] == 2] / 10).astype(int)
    assert len(centres) >= 32
    assert set(labels[tuple(centres.T[::-1])]) == {0, 7}


def test_another_voxel_size(folder: Path) -> None:
    config = CONFIG.model_copy(update={"model_voxel_size": 12.5})
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=config))
    assert store.voxel_size == 12.5
    masks = store["mask"][:].sum((1, 2, 3))
    assert masks.max() == pytest.approx(4 / 3 * np.pi * (RADIUS * 10 / 12.5) ** 3, rel=0.2)


@pytest.mark.parametrize("voxel_size", [5.0, 12.5, 13.0])
def test_listed_particles_stay_where_they_are_at_another_voxel_size(voxel_size: float, folder: Path) -> None:
    """The density, the ball that stands for it and the stated place have the same centre."""
    particles = write_list(folder / "particles.csv")
    settings = {"model_voxel_size": voxel_size, "radius": {"small": 50.0, "large": 50.0}, "box_size": 40 if voxel_size < 10 else 16, "max_shift": 0.0}
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=CONFIG.model_copy(update=settings)))
    places = np.array([np.array(place)[::-1] * 10.0 for label in (1, 2) for place in PLACES[label]])
    for box, mask, label, position, shift in zip(*(store[name][:] for name in ("subtomogram", "mask", "label", "position", "shift")), strict=True):
        if label == 2:
            continue
        assert np.linalg.norm(places - position, axis=1).min() < 1e-2
        middle = (np.argwhere(mask > 0).mean(0)[::-1] - len(box) // 2) * voxel_size
        assert np.allclose(middle, shift, atol=0.25 * voxel_size)
        bright = np.where(ndimage.binary_dilation(mask > 0, iterations=2), box.astype(float) - np.median(box[mask == 0]), 0)
        middle = (np.array(ndimage.center_of_mass(bright))[::-1] - len(box) // 2) * voxel_size
        assert np.allclose(middle, shift, atol=3)


def test_tomograms_are_found_by_the_names_of_other_programs(folder: Path) -> None:
    particles = write_list(folder / "particles.csv")
    (folder / "tomograms/t0.mrc").rename(folder / "tomograms/rec_t0.mrc")
    (folder / "tomograms/t1.mrc").rename(folder / "tomograms/t1_10.00Apx.mrc")
    config = CONFIG.model_copy(update={"radius": {"small": 50.0, "large": 50.0}})
    check(open_store(cut([folder / "tomograms"], folder / "own.zarr", particles=particles, config=config)), ("large", "small"))
    particles.write_text(particles.read_text().replace("t0,", "u0,").replace("t1,", "u1,"))
    with pytest.raises(InputError, match="names no particle in"):
        cut([folder / "tomograms"], folder / "other.zarr", particles=particles, config=config)


def test_a_list_that_counts_from_the_centres_needs_no_table_of_tomograms(folder: Path) -> None:
    """RELION 5's, which names a tomogram more; where a table of tomograms lies beside it, that counts, as for predict."""
    paths, size = find_tomograms([folder / "tomograms"]), np.array(SHAPE[::-1])
    voxels = np.array([place[::-1] for label in (1, 2) for place in PLACES[label]])
    rows = [f"{name} {x} {y} {z} small" for name in ("t0", "u0", "t1") for x, y, z in (voxels - size / 2) * 10]
    axes = "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    (folder / "list.star").write_text("\n".join([f"data_particles\n\nloop_\n_rlnTomoName\n{axes}_triptychClass", *rows, ""]))
    known = read_annotations(paths, None, folder / "list.star", CONFIG)
    assert known.particles is not None
    assert known.particles.positions is not None
    for name in ("t0", "t1"):
        assert np.allclose(known.particles.positions[known.rows_in(name)], voxels * 10)
    unknown = "".join(f"{name} -999 -999 -999 5\n" for name in ("t1", "u0"))
    header = "".join(f"_rlnTomo{name}\n" for name in ("Name", "SizeX", "SizeY", "SizeZ", "TiltSeriesPixelSize"))
    (folder / "tomograms.star").write_text(f"data_global\n\nloop_\n{header}t0 {2 * size[0] + 6} {2 * size[1]} {2 * size[2]} 5\n{unknown}")
    known = read_annotations(paths, None, folder / "list.star", CONFIG)
    assert known.particles is not None
    assert known.particles.positions is not None
    assert np.allclose(known.particles.positions[known.rows_in("t0")], voxels * 10 + [15, 0, 0])
    assert np.allclose(known.particles.positions[known.rows_in("t1")], voxels * 10)


def test_what_a_list_counts_in_can_be_said(folder: Path) -> None:
    paths = find_tomograms([folder / "tomograms"])
    convert_particles(write_list(folder / "list.csv"), folder / "list.em", "em", Known(voxel_size=4))
    with pytest.raises(InputError, match=r"--set coordinate_pixel_size= \(cut\)"):
        read_annotations(paths, None, folder / "list.em", CONFIG)
    stated = read_annotations(paths, None, folder / "list.em", CONFIG.model_copy(update={"coordinate_pixel_size": 4.0}))
    known = read_annotations(paths, None, folder / "list.csv", CONFIG)
    assert stated.particles is not None
    assert known.particles is not None
    assert np.allclose(stated.particles.positions, known.particles.positions, atol=1e-3)
    assert stated.inside == known.inside


def test_rows_of_a_list_are_sorted_into_tomograms_once() -> None:
    known = Annotations(("a",), 1, {}, {}, inside=("TS_2", "", "TS_1", "TS_2"))
    assert [known.rows_in(name).tolist() for name in ("TS_1", "TS_2", "TS_3")] == [[2], [0, 3], []]
    assert known.rows_in("TS_2") is known.rows_in("TS_2")


def test_pieces_and_crumbs() -> None:
    labels = np.zeros((20, 20, 20), dtype=np.uint16)
    labels[2:6, 2:6, 2:6], labels[10:14, 10:14, 10:14], labels[18, 18, 18] = 1, 1, 1
    places, label = find_pieces(labels, 2)
    assert np.allclose(places, [[3.5] * 3, [11.5] * 3])
    assert label.tolist() == [0, 0]
    owner = assign_voxels(labels, places, label)
    assert (owner[2:6, 2:6, 2:6] == 1).all()
    assert (owner[10:14, 10:14, 10:14] == 2).all()


def test_turned_boxes_lie_as_their_rotations_say(folder: Path) -> None:
    particles = write_list(folder / "list.csv")
    turned = CONFIG.model_copy(update={"turned_share": 1.0})
    check(open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=turned)), ("large", "small", "membrane"))
    wide = turned.model_copy(update={"box_size": 64, "max_shift": 0.0})
    store = open_store(cut([folder / "tomograms"], folder / "wide.zarr", labels=folder / "labels", particles=particles, config=wide))
    apart = np.subtract(PLACES[1][1], PLACES[1][0])[::-1]
    seen = 0
    for box, place, rotation in zip(store["subtomogram"][:].astype(float), store["position"][:], store["rotation"][:], strict=True):
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        if np.allclose(place[::-1] / 10, PLACES[1][0]):
            assert not np.allclose(rotation, np.eye(3), atol=0.1)
            x, y, z = np.round(32 + rotation @ apart).astype(int)  # the tomogram's axes serve as those of the reference
            assert box[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].mean() > 2
            seen += 1
    assert seen


def test_the_command_line_trains_on_what_was_cut(folder: Path) -> None:
    run = CliRunner().invoke
    settings = ["particles_per_tomogram=8", "tiles_per_tomogram=4", "box_size=16", "none_distance=90"]
    result = run(app, ["cut", str(folder / "tomograms"), str(folder / "own.zarr"), "--labels", str(folder / "labels"), *set_options(settings)])
    assert result.exit_code == 0, result.output
    options = set_options([*TRAIN, "network.tasks=[class, mask, pick]", "augment.snr=[0.1, 0.2]"])
    result = run(app, ["train", str(folder / "own.zarr"), str(folder / "model"), *options])
    assert result.exit_code == 0, result.output
    assert result.output.count("augment.snr and augment.swap_noise do nothing") == 1
    result = run(app, ["train", str(folder / "own.zarr"), str(folder / "dense"), *set_options(TRAIN)])
    assert result.exit_code == 2
    assert "no array 'density'" in result.output


@pytest.mark.parametrize("turned_share", [0.0, 1.0])
def test_the_place_of_every_box_is_kept(turned_share: float, folder: Path) -> None:
    """The middle voxel is that of the tomogram there, however the box is turned; the half precision of a box hides less than its noise."""
    config = CONFIG.model_copy(update={"turned_share": turned_share})
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=config))
    for kind, place in (("", "box_position"), ("tiles/", "tiles/position")):
        seen, there = [], []
        for box, number, (x, y, z) in zip(store[f"{kind}subtomogram"][:], store[f"{kind}tomogram"][:], store[place][:] / 10, strict=True):
            seen.append(box[8, 8, 8])
            there.append(-read_mrc(folder / f"tomograms/t{number}.mrc").data[round(z), round(y), round(x)])
        assert np.corrcoef(seen, there)[0, 1] > 0.9
    if not turned_share:
        assert np.allclose(store["box_position"][:], store["position"][:] - store["shift"][:], atol=1e-2)


@pytest.mark.parametrize(("turned_share", "width"), [(0.0, 160), (0.5, 160 * 3**0.5)])
def test_the_end_of_a_single_tomogram_is_held_out(turned_share: float, width: float, folder: Path) -> None:
    """The tomogram is longest along x; what trains shares no voxel with what validates, though the corners of turned boxes reach farther."""
    config = CONFIG.model_copy(update={"particles_per_tomogram": 100, "tiles_per_tomogram": 50, "turned_share": turned_share})
    store = open_store(cut([folder / "tomograms/t0.mrc"], folder / "own.zarr", labels=folder / "labels", config=config))
    slab = find_slab(store, 0.1, 0)
    assert slab is not None
    rows, held_out = split_rows(store, 0.1, 100, 0)
    tiles, held_out_tiles = tile_rows(store, rows, slab), tile_rows(store, held_out, slab)
    assert 10 <= len(held_out) < 30
    assert 5 <= len(held_out_tiles) < 15
    x, of_tiles = (store[name][:, 0] for name in ("box_position", "tiles/position"))
    first, last = min(x[held_out].min(), of_tiles[held_out_tiles].min()), max(x[rows].max(), of_tiles[tiles].max())
    assert first - last >= width
    assert set(np.flatnonzero(x <= first - width)) == set(rows)
    assert set(np.flatnonzero(x >= first)) == set(held_out)


def test_a_slab_is_held_out_of_one_tomogram_of_few(folder: Path) -> None:
    """Half of two would be far more than a tenth; where it would not, a whole one is held out."""
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=CONFIG))
    tomogram = store["tomogram"][:]
    for share, trained_on in ((0.1, 2), (0.3, 1)):
        rows, held_out = split_rows(store, share, 100, 0)
        assert len(set(tomogram[rows])) == trained_on
        assert len(set(tomogram[held_out])) == 1


def test_of_a_tomogram_that_is_too_small_no_end_is_held_out(folder: Path) -> None:
    wide = CONFIG.model_copy(update={"box_size": 40})
    store = open_store(cut([folder / "tomograms/t0.mrc"], folder / "own.zarr", labels=folder / "labels", config=wide))
    with pytest.raises(InputError, match=r"comes from a single tomogram; with its end held out .* a smaller --set validation_share="):
        split_rows(store, 0.1, 100, 0)


def test_a_single_tomogram_is_enough_to_train_on(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That no large particle is left is said, and the manifest says what is held out."""
    data = cut([folder / "tomograms/t0.mrc"], folder / "own.zarr", labels=folder / "labels", config=CONFIG)
    config = load_config(TrainConfig, None, [*TRAIN, "network.tasks=[class, mask, pick]"])
    about = read_manifest(train(data, folder / "model", config))
    assert 0 < about["validation"]["particles"] <= 4
    assert about["held_out"].startswith("the end of tomogram 0, from x = ")
    assert caplog.text.count("no particle of large is left to train on") == 1
    assert "held out: " in caplog.text
    assert "whose figures mean little" in caplog.text


@pytest.mark.parametrize(("config", "warns"), [(AugmentConfig(snr=(0.1, 0.2)), True), (AugmentConfig(), False), (AugmentConfig(snr=None), False)])
def test_an_snr_that_cannot_be_redrawn_is_said(config: AugmentConfig, warns: bool, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(cut([folder / "tomograms"], folder / "own.zarr", labels=folder / "labels", config=CONFIG))
    with caplog.at_level(logging.WARNING):
        warn_of_missing_signal(store, config)
    assert ("do nothing" in caplog.text) == warns


def test_bad_input_is_named(folder: Path) -> None:
    tomograms = [folder / "tomograms"]
    with pytest.raises(InputError, match="no annotation came"):
        cut(tomograms, folder / "own.zarr")
    with pytest.raises(InputError, match="is no folder"):
        cut(tomograms, folder / "own.zarr", labels=folder / "nothing")
    for names, sentence in (({1: "a-b", 2: "a_b"}, "differ in punctuation"), ({1: "unknown"}, "a meaning of its own"), ({1: "a/b"}, "cannot be")):
        with pytest.raises(InputError, match=sentence):
            cut(tomograms, folder / "own.zarr", labels=folder / "labels", config=CutConfig(names=names))
    with pytest.raises(InputError, match=r"is to lie in .*tomograms, which is read"):
        cut(tomograms, folder / "tomograms/own.zarr", labels=folder / "labels")
    (folder / "places.csv").write_text("tomogram,x,y,z\nt0,100,100,100\n")
    with pytest.raises(InputError, match=r"does not say of what class each particle is: `triptych convert .* --class NAME` makes a list that does"):
        cut(tomograms, folder / "own.zarr", particles=folder / "places.csv")
    with pytest.raises(InputError, match=r"places\.csv is no tomogram: give tomograms as MRC files"):
        cut([folder / "places.csv"], folder / "own.zarr", labels=folder / "labels")
    with pytest.raises(InputError, match="max_shift is 80 Å, but less than half the box"):
        cut(tomograms, folder / "own.zarr", labels=folder / "labels", config=CONFIG.model_copy(update={"max_shift": 80.0}))
    (folder / "labels/t1_labels.mrc").unlink()
    with pytest.raises(InputError, match="no tomogram called t1"):
        cut(tomograms, folder / "own.zarr", labels=folder / "labels")
    write_mrc(folder / "labels/t1_labels.mrc", label_map()[1:], 10.0)
    with pytest.raises(InputError, match="on the tomogram's own voxels"):
        cut(tomograms, folder / "own.zarr", labels=folder / "labels")
    assert not (folder / "own.zarr").exists()
