"""`discover` and `add-class` on make-believe predictions; half maps, identification and poses in STAR files on their own."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fake_predictions import VOXEL_SIZE, draw_balls, make_fake, make_shape
from scipy.spatial.transform import Rotation
from test_report import Page
from tiny import hashes
from typer.testing import CliRunner

from triptych.alignment.grouping import Groups
from triptych.alignment.half_maps import compare_half_maps, soft_mask, usable_resolution
from triptych.alignment.identify import identify, load_references, mirror, name_match
from triptych.cli import app
from triptych.config import AlignConfig, DiscoverConfig, GroupConfig, NetworkConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.fourier import radial_power_spectrum, scramble_phases
from triptych.io.manifest import describe_input, write_manifest
from triptych.io.mrc import read_mrc
from triptych.io.particle_star import add_poses
from triptych.io.predictions import Predicted, open_input, read_predictions
from triptych.io.relion import angles_from_rotations
from triptych.io.relion_particles import particles_from_relion
from triptych.io.star import read_star, write_star
from triptych.pages.discovery_page import list_doubts
from triptych.recognition.model import Model, ModelCard, load_model
from triptych.recognition.network import Network
from triptych.recognition.novelty import NoveltyRule, Traits, describe_known
from triptych.simulation.library import write_library
from triptych.simulation.structures import Structure
from triptych.stages import discover as stage
from triptych.stages.add_class import add_classes
from triptych.stages.discover import choose_particles, discover, find_groups, read_shapes
from triptych.terminal import print_groups
from triptych.volume import Volume

QUICK = AlignConfig(step=45, starts=1, rounds=1, candidates=1, resolution=40, coarse_resolution=50, max_shift=20)
SIZE = 16
CLASSES = ("ribosome_70s", "proteasome_20s")


def make_structure(index: int, size: int = SIZE) -> Structure:
    density = draw_balls(make_shape(index, np.random.default_rng(index)), size).astype(np.float32)
    return Structure(f"shape_{index}", Volume(density, VOXEL_SIZE), 500.0, 0.3, "made for a test")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DiscoverConfig:
    library = tmp_path_factory.mktemp("structures") / "library"
    write_library([make_structure(index) for index in range(2)], library)
    return DiscoverConfig(particles="all", library=library, align=QUICK, group={"smallest": 8, "resamplings": 2})


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake(tmp_path_factory.mktemp("fake"), count=28, size=SIZE, class_names=CLASSES, snr=(0.2, 0.4)).predictions


@pytest.fixture(scope="module")
def found(predictions: Path, settings: DiscoverConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return discover(predictions, tmp_path_factory.mktemp("found") / "discovery", settings)


# -------------------------------------------------------------------------------------------------------------- stage


def test_groups_are_the_classes_and_have_maps_and_poses(found: Path, predictions: Path) -> None:
    table = read_star(found / "particles.star")["particles"]
    given = read_predictions(predictions)
    rows = np.arange(len(given))
    assert sorted(table["triptychGroup"].unique()) == [1, 2]
    assert all(len(set(table["triptychGroup"][rows % 2 == k])) == 1 for k in (0, 1))  # make_fake gives the classes in turn
    groups = read_star(found / "groups.star")["groups"]
    assert groups["triptychParticles"].tolist() == [14, 14]
    assert set(groups["triptychMatchName"]) <= {"shape_0", "shape_1"}
    for number in (1, 2):
        folder = found / "groups" / str(number)
        members = read_star(folder / "particles.star")["particles"]
        assert (folder / members["triptychDensity"][0]).is_file()  # named so that it is found from there
        assert np.isfinite(members[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst"]].to_numpy()).all()
        for name in ("average", "average_filtered", "half_1", "half_2", "recovered", "mask"):
            volume = read_mrc(folder / f"{name}.mrc")
            assert (volume.shape, volume.voxel_size) == ((SIZE,) * 3, VOXEL_SIZE)
            assert np.ptp(volume.data) > 0
        described = json.loads((folder / "group.json").read_text())
        assert described["half_particles"] == [7, 7]
        assert described["tilt_ranges_are"].startswith("assumed")  # the store holds zeros only


def test_no_average_is_compared_finer_than_its_halves_agree() -> None:
    assert usable_resolution(27.5, 384) == 27.5
    assert usable_resolution(85.2, 384) == 85.2
    assert usable_resolution(np.inf, 384) == 100  # something must be left to compare
    assert usable_resolution(np.inf, 160) == pytest.approx(160 / 3)


def test_table_and_page_say_down_to_which_detail_a_match_was_compared_and_of_which_hand(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = read_star(found / "groups.star")["groups"]
    described = [json.loads((found / f"groups/{number}/group.json").read_text()) for number in (1, 2)]
    page, words = Page(found / "report.html").text, {"same": "", "undecided": "fits about as well", "mirrored": "fits better than the structure"}
    for item, (_, row) in zip(described, groups.iterrows(), strict=True):
        assert row["triptychMatchResolution"] == pytest.approx(item["compared_to"])
        assert item["compared_to"] >= max(item["filtered_to"], QUICK.resolution)
        match = item["matches"][0]
        assert row["triptychMatchHand"] == match["hand"]
        assert name_match(match["name"], match["hand"]) in page.replace("\u200b", "")
        assert words[match["hand"]] in page
    print_groups(found)
    assert f"to {described[0]['compared_to']:.0f} Å" in capsys.readouterr().out


def test_page_says_what_to_doubt(found: Path) -> None:
    page = Page(found / "report.html").text
    assert page.count("Few particles: see whether") == 2  # halves of 7
    assert "Tilt range" in page
    for halves, stability, doubts in (([20, 21], 0.6, []), ([20, 20], None, []), ([20, 19], 0.9, ["Few"]), ([9, 9], 0.5, ["Few", "Not"])):
        said = list_doubts({"half_particles": halves, "stability": stability})
        assert [doubt.split()[0] for doubt in said] == doubts


def test_a_match_whose_mirror_image_fits_as_well_is_called_so() -> None:
    words = {hand: name_match("spike", hand) for hand in ("same", "mirrored", "undecided")}
    assert words == {"same": "spike", "mirrored": "mirror image of spike", "undecided": "spike or its mirror image"}


def test_info_knows_a_group(found: Path) -> None:
    told = describe_file(found / "groups/1")
    assert (told.kind, told.warnings) == ("triptych group of particles", [])
    facts = dict(told.facts)
    assert facts["particles"] == "14"
    assert facts["most like"] in ("shape_0", "shape_1")


def test_the_library_is_an_input(found: Path, settings: DiscoverConfig) -> None:
    """So that a rerun notices whether it has changed."""
    assert settings.library is not None
    assert describe_input(settings.library) in json.loads((found / "manifest.json").read_text())["inputs"]


def test_one_group_holds_all_that_were_chosen(predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    config = settings.model_copy(update={"one_group": True, "classes": (CLASSES[0],)})
    discover(predictions, tmp_path / "one", config)
    assert f"called {CLASSES[0]}, taken as one group" in Page(tmp_path / "one/report.html").text
    called = read_star(predictions / "particles.star")["particles"]["triptychClass"] == CLASSES[0]
    assert read_star(tmp_path / "one/particles.star")["particles"]["triptychGroup"].tolist() == called.astype(int).tolist()


def test_no_particle_is_in_both_halves_however_often_it_is_listed(
    predictions: Path, settings: DiscoverConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the noise of one that is would agree with itself."""
    explorer = stage.open_explorer(predictions, settings)
    explorer.warn_of_repeated()
    assert not caplog.messages
    monkeypatch.setattr(stage, "number_distinct", lambda source: np.arange(len(source)) // 2)
    one_group = Groups(np.zeros(len(explorer.rows), np.int64), np.ones(1), np.zeros(1, np.bool_), np.empty((0, 0)))
    explorer = stage.open_explorer(predictions, settings, one_group)
    first, second = (set((explorer.members[0][half] // 2).tolist()) for half in explorer.halves[0])
    assert len(first) == len(second) == len(explorer.rows) // 4
    assert not first & second
    explorer.warn_of_repeated()
    assert "14 of the 28 particles to be grouped show what others show" in caplog.text


def test_a_list_says_which_particles_to_group(predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    given, listed = read_predictions(predictions), tmp_path / "chosen.star"
    write_star(listed, {"particles": given.table.iloc[2:12]})
    config = settings.model_copy(update={"only": listed, "particles": "all", "classes": None})
    assert choose_particles(given, config).tolist() == list(range(2, 12))
    write_star(listed, {"particles": given.table.iloc[:1]})
    with pytest.raises(InputError, match=r"1 of \d+ particles are to be grouped \(.* of those that .*chosen\.star lists\)"):
        choose_particles(given, config)


def test_all_particles_are_offered_only_where_that_changes_something(predictions: Path, settings: DiscoverConfig) -> None:
    for classes, offered in ((None, True), ((CLASSES[0],), False)):
        config = settings.model_copy(update={"particles": "unknown", "classes": classes, "group": GroupConfig(smallest=10_000)})
        with pytest.raises(InputError) as refused:
            choose_particles(read_predictions(predictions), config)
        assert ("particles=all" in str(refused.value)) == offered
    sentence = r"28 of 28 particles are to be grouped \(all, since the model has no task class\), but a group has at least 10000"
    with pytest.raises(InputError, match=sentence):  # before densities are read
        choose_particles(replace(read_predictions(predictions), label=None), config)


def test_poses_are_refined_unless_told_otherwise(found: Path, predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    discover(predictions, tmp_path / "plain", settings.model_copy(update={"refine": False}))
    refined, plain = (read_star(folder / "groups/1/particles.star")["particles"] for folder in (found, tmp_path / "plain"))
    assert (refined["triptychName"] == plain["triptychName"]).all()
    assert (refined["rlnAngleTilt"] != plain["rlnAngleTilt"]).all()


class Stop(Exception):
    pass


def stop_after_a_half(done: int, total: int) -> None:
    if done >= 7 and total == 2 * 28:
        raise Stop


def test_each_density_is_described_once_however_often_a_run_is_stopped(
    found: Path, predictions: Path, settings: DiscoverConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the groups are found once."""
    described: list[int] = []
    grouped: list[int] = []
    told: list[tuple[int, int]] = []
    stops = [(20, 28), (7, 56)]  # densities, steps

    def describe(given: Predicted, rows: np.ndarray) -> np.ndarray:
        described.extend(rows)
        return read_shapes(given, rows)

    def find(*given: Any) -> Groups:
        grouped.append(1)
        return find_groups(*given)

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if stops and stops[0] == (done, total):
            del stops[0]
            raise Stop

    monkeypatch.setattr(stage, "BLOCK", 10)
    monkeypatch.setattr(stage, "read_shapes", describe)
    monkeypatch.setattr(stage, "find_groups", find)
    for _ in range(2):
        with pytest.raises(Stop):
            discover(predictions, tmp_path / "again", settings, stop)
    assert told[:6] == [(0, 28), (10, 28), (20, 28), (20, 28), (28, 28), (0, 56)]
    discover(predictions, tmp_path / "again", settings)
    assert (described, grouped) == (list(range(28)), [1])
    assert hashes(tmp_path / "again") == hashes(found)


def test_a_stopped_run_goes_on_and_ends_with_the_same_maps(found: Path, predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(Stop):
        discover(predictions, tmp_path / "again", settings, stop_after_a_half)
    assert not (tmp_path / "again").exists()
    discover(predictions, tmp_path / "again", settings, lambda done, total: seen.append(done))
    assert seen[0] == 7  # one half was finished
    assert seen == sorted(seen)
    assert len(set(seen)) > 7  # of each half it is told how far it is, too: there are six steps
    for name in ("groups/1/average.mrc", "groups/2/half_2.mrc"):
        assert np.array_equal(read_mrc(tmp_path / "again" / name).data, read_mrc(found / name).data)


def test_steps_done_by_other_processes_end_with_the_same_files(found: Path, predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    out = discover(predictions, tmp_path / "discovery", settings.model_copy(update={"workers": 2}))
    assert hashes(out) == hashes(found)


def test_other_settings_do_not_mix_with_a_stopped_run(predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        discover(predictions, tmp_path / "again", settings, stop_after_a_half)
    with pytest.raises(InputError, match="another seed"):
        discover(predictions, tmp_path / "again", settings.model_copy(update={"seed": 5}))


def test_a_list_that_has_changed_does_not_mix_with_a_stopped_run(predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    given, listed = read_predictions(predictions), tmp_path / "chosen.star"
    config = settings.model_copy(update={"only": listed})

    def stop(done: int, total: int) -> None:
        if done:
            raise Stop

    write_star(listed, {"particles": given.table.iloc[:20]})
    with pytest.raises(Stop):
        discover(predictions, tmp_path / "again", config, stop)
    write_star(listed, {"particles": given.table.iloc[8:]})
    with pytest.raises(InputError, match="another list of particles"):
        discover(predictions, tmp_path / "again", config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"particles": "unknown"}, "does not say which particles are unknown"),
        ({"classes": ("ribosme",)}, "the model knows ribosome_70s"),
        ({"library": Path("nowhere")}, "the library nowhere does not exist"),
        ({"group": {"smallest": 1000}}, "but a group has at least 1000"),
        ({"voxel_size": 500.0}, "can be averaged at"),
        ({"voxel_size": 0.5}, "can be averaged at"),
    ],
)
def test_what_cannot_be_done_is_said(predictions: Path, settings: DiscoverConfig, tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    config = DiscoverConfig.model_validate({**settings.model_dump(), **change})
    with pytest.raises(InputError, match=sentence):
        discover(predictions, tmp_path / "out", config)
    assert not list(tmp_path.iterdir())


def test_particles_that_changed_since_are_refused(settings: DiscoverConfig, tmp_path: Path) -> None:
    fake = make_fake(tmp_path / "fake", count=12, size=SIZE, class_names=CLASSES)
    manifest = fake.predictions / "manifest.json"
    told = json.loads(manifest.read_text())
    told["inputs"] = [describe_input(fake.truth)]
    manifest.write_text(json.dumps(told))
    assert open_input(read_predictions(fake.predictions))[1] is None
    (fake.truth / "more").write_text("a byte or two")
    with pytest.raises(InputError, match="has changed since"):
        discover(fake.predictions, tmp_path / "out", settings)


def test_predictions_without_densities_are_refused(predictions: Path, settings: DiscoverConfig, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(predictions, tmp_path / "predictions"))
    blocks = read_star(copy / "particles.star")
    write_star(copy / "particles.star", {"particles": blocks["particles"].drop(columns="triptychDensity")})
    with pytest.raises(InputError, match="write_densities=true"):
        discover(copy, tmp_path / "out", settings)


# --------------------------------------------------------------------------------------------------------------- page


def test_page_loads_nothing(found: Path) -> None:
    page = Page(found / "report.html")
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert page.tags.count("canvas") == 2
    assert "default-src 'none'" in (found / "report.html").read_text()


PROBE = """<script>
addEventListener("load", () => {
  const svg = document.getElementById("map"), box = svg.getBoundingClientRect(), dot = svg.querySelector("circle[fill]");
  const place = (name, size, length) => Number(dot.getAttribute(name)) * length / size;
  const where = { clientX: box.left + place("cx", 900, box.width), clientY: box.top + place("cy", 560, box.height) };
  svg.dispatchEvent(new PointerEvent("pointermove", where));
  const canvas = document.querySelector("canvas.surface"), before = canvas.toDataURL();
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  document.documentElement.dataset.turned = before === canvas.toDataURL() ? "no" : "yes";
  document.querySelector("[data-toggle='1']").click();
  document.documentElement.dataset.hidden = svg.querySelectorAll(".hidden").length;
});
</script></body>"""


def test_page_works_in_a_browser(found: Path, tmp_path: Path) -> None:
    browser = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
    if browser is None:
        pytest.skip("needs chromium to look at the page")
    text = (found / "report.html").read_text(encoding="utf-8")
    policy = text[text.index("script-src '") : text.index("'\">", text.index("script-src '")) + 1]
    probed = tmp_path / "probed.html"  # with a script of the test's, which the page's own policy would not let run
    probed.write_text(text.replace(policy, "script-src 'unsafe-inline'").replace("</body>", PROBE), encoding="utf-8")
    dumps = []
    for page in (found / "report.html", probed):
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=4000",
            "--dump-dom",
        ]
        ran = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
        dumps.append(ran.stdout)
    plain, touched = dumps
    assert 'data-ready="yes"' in plain  # the page's own policy lets its script run
    assert plain.count("<circle") == 28
    lit = [int(part.split('"')[0]) for part in plain.split('data-lit="')[1:]]
    assert len(lit) == 2
    assert all(count > 500 for count in lit)
    assert 'data-turned="yes"' in touched
    assert 'data-hidden="14"' in touched
    assert 'id="particle-name">particle_0000' in touched
    assert 'id="particle-panels">' in touched  # no longer hidden


# ------------------------------------------------------------------------------------------------------------- pieces


def test_identify_names_the_structure_and_its_hand() -> None:
    size = 24
    library = [make_structure(index, size) for index in (2, 3)]
    angle = np.linspace(0, 4, 9)[:, None]
    shape = np.hstack([55 * np.cos(angle), 55 * np.sin(angle), 22 * angle - 44])  # a winding, which has a hand
    library[1] = replace(library[1], density=Volume(draw_balls(shape, size).astype(np.float32), VOXEL_SIZE))
    turned = draw_balls(Rotation.from_euler("ZYZ", [50, 40, 110], degrees=True).apply(shape), size).astype(np.float32)
    config = AlignConfig(step=30, candidates=3, resolution=30, coarse_resolution=45, max_shift=10)
    own, mirrored = identify(turned, library, VOXEL_SIZE, config), identify(mirror(turned), library, VOXEL_SIZE, config)
    assert (own[0].name, own[0].hand) == ("shape_3", "same")
    assert (mirrored[0].name, mirrored[0].hand) == ("shape_3", "mirrored")
    assert own[0].correlation == pytest.approx(mirrored[0].mirror_correlation, abs=0.03)
    above = identify(turned + turned.max(), library[1:], VOXEL_SIZE, config)  # a constant tells nothing of a shape
    assert above[0].correlation == pytest.approx(own[0].correlation, abs=1e-3)


def test_mirror_keeps_the_centre_and_undoes_itself() -> None:
    data = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    assert np.array_equal(mirror(mirror(data)), data)
    assert mirror(data)[1, 2, 3] == data[1, 2, 3]


def test_a_file_will_do_as_library(tmp_path: Path) -> None:
    from tiny import write_pdb

    write_pdb(tmp_path / "complex.pdb", residues=300, radius=30)
    assert [item.name for item in load_references(tmp_path / "complex.pdb", 10.0)] == ["complex"]
    assert [item.name for item in load_references(tmp_path, 10.0)] == ["complex"]


def test_correction_takes_away_what_the_mask_brings() -> None:
    rng = np.random.default_rng(0)
    density = make_structure(0, 32).density.data
    mask = soft_mask(density, VOXEL_SIZE) ** 4  # sharper: it correlates more
    noise = [rng.normal(size=density.shape).astype(np.float32) for _ in range(2)]
    apart = compare_half_maps(noise[0] + 3, noise[1] + 3, VOXEL_SIZE, mask, rng)
    assert apart.masked[2:5].mean() > 0.5
    assert abs(apart.corrected[5:]).mean() < 0.25
    alike = compare_half_maps(density + 0.01 * noise[0], density + 0.01 * noise[1], VOXEL_SIZE, mask, rng)
    assert alike.resolution < 40
    assert alike.corrected[3] == pytest.approx(1, abs=0.05)


def test_what_is_longer_than_the_mask_does_not_count() -> None:
    rng = np.random.default_rng(0)
    density = make_structure(0, 32).density.data
    wave = 0.2 * np.sin(2 * np.pi * np.arange(len(density), dtype=np.float32) / len(density))[:, None, None]  # as long as the box
    everywhere = np.ones_like(density)
    inside = np.zeros_like(density)
    inside[1:-1, 1:-1, 1:-1] = 1
    apart = [compare_half_maps(density + wave, density - wave, VOXEL_SIZE, mask, rng) for mask in (everywhere, inside)]
    assert all(correlation.corrected[1] < 0 for correlation in apart)
    assert apart[0].resolution == np.inf
    assert apart[1].resolution < 100


def test_scrambled_phases_keep_the_power() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 12, 12)).astype(np.float32)
    other = scramble_phases(data, rng)
    assert np.allclose(radial_power_spectrum(Volume(data, 1.0))[1], radial_power_spectrum(Volume(other, 1.0))[1], rtol=1e-4)
    assert abs(np.corrcoef(data.ravel(), other.ravel())[0, 1]) < 0.2


def test_poses_in_a_star_file_mean_what_was_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames, found, shifts = Rotation.random(3, rng=rng), Rotation.random(3, rng=rng), rng.normal(size=(3, 3)) * 20
    offsets, origins = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)) * 5
    table = pd.DataFrame({"rlnTomoName": ["a"] * 3, **{f"rlnCoordinate{axis}": rng.uniform(50, 90, 3) for axis in "XYZ"}})
    names = [f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi")]
    table[names] = angles_from_rotations(frames.as_matrix())
    table[[f"rlnOrigin{axis}Angst" for axis in "XYZ"]] = origins
    table["rlnTomoTiltSeriesPixelSize"] = 2.0
    write_star(tmp_path / "before.star", {"particles": table})
    written = add_poses(table, found.as_matrix(), shifts, offsets=offsets, origins=origins)
    write_star(tmp_path / "after.star", {"particles": written})
    before, after = (particles_from_relion(tmp_path / f"{name}.star") for name in ("before", "after"))
    assert before.positions is not None
    assert after.positions is not None
    assert after.rotations is not None
    # the box's centre is the position less the offset, and the particle is `shifts` from there
    assert np.allclose(after.positions, before.positions - offsets + shifts, atol=1e-3)
    assert np.allclose(after.rotations, found.as_matrix(), atol=1e-4)
    image = add_poses(table, found.as_matrix(), shifts, lies_as_tomogram=False)
    assert np.allclose(image[[f"rlnOrigin{axis}Angst" for axis in "XYZ"]], -shifts)


# ----------------------------------------------------------------------------------------------------------- add-class

EMBEDDING = 16
OLD = ("first", "second", "third", "none")


def draw_embeddings(classes: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(7).normal(size=(5, EMBEDDING)) * 3
    label = np.arange(count) % classes
    return (centres[label] + rng.normal(size=(count, EMBEDDING))).astype(np.float32), label


def make_model(folder: Path) -> Path:
    """A model whose last layer tells four classes apart, and a reference of what they look like."""
    config = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=EMBEDDING, tasks=("class", "mask", "density"))
    network = Network(config, len(OLD))
    embedding, label = draw_embeddings(len(OLD), 400, np.random.default_rng(1))
    features = torch.relu(torch.from_numpy(embedding))
    layer = torch.nn.Linear(EMBEDDING, len(OLD))
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(layer(features), torch.from_numpy(label)).backward()
        optimiser.step()
    network.load_state_dict(network.state_dict() | {f"classify.2.{name}": value.detach() for name, value in layer.named_parameters()})
    traits = Traits(embedding, np.zeros((400, len(OLD)), np.float32), np.ones((400, 9), np.float32))
    reference = describe_known(traits, label, traits, NoveltyRule("neighbours", 8.0, 1.0, 5, "known particles"))
    return Model(network, ModelCard(config, OLD, VOXEL_SIZE, SIZE, "bright"), "cpu", "float32", reference).save(folder, None, [])


def make_discovery(folder: Path, model: Path, count: int) -> Path:
    """Group 1 is of a class that the model doesn't know."""
    from triptych.io.manifest import hash_file

    embedding, label = draw_embeddings(5, 5 * count, np.random.default_rng(2))
    (folder / "groups/1").mkdir(parents=True)
    np.save(folder / "groups/1/embedding.npy", embedding[label == 4])
    np.save(folder / "groups/1/shape.npy", np.ones((count, 9), np.float32))
    about = {"model": {"path": str(model), "sha256": hash_file(model / "weights.safetensors"), "spectrum": "particles"}}
    write_manifest(folder, "discover", None, [], 0, about)
    return folder


def classify(model: Model, embedding: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.network.classify(torch.from_numpy(embedding)).argmax(1).numpy()


@pytest.mark.parametrize("count", [5, 20])
def test_an_added_class_is_recognised_and_the_old_ones_still_are(tmp_path: Path, count: int) -> None:
    old = make_model(tmp_path / "model")
    discovery = make_discovery(tmp_path / "discovery", old, count)
    result = CliRunner().invoke(app, ["add-class", str(discovery), str(tmp_path / "grown"), "1=fourth"])
    assert result.exit_code == 0, result.output
    before, after = load_model(old, "cpu", "float32"), load_model(tmp_path / "grown", "cpu", "float32")
    embedding, label = draw_embeddings(5, 500, np.random.default_rng(3))
    is_new = label == 4
    assert after.card.class_names == (*OLD, "fourth")
    assert (classify(after, embedding)[is_new] == 4).mean() > 0.9
    assert (classify(after, embedding)[~is_new] == label[~is_new]).mean() > (classify(before, embedding)[~is_new] == label[~is_new]).mean() - 0.02
    assert after.novelty is not None
    assert len(after.novelty.means) == 5
    boxes = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, SIZE)).astype(np.float32)
    outputs = [model.predict(boxes, VOXEL_SIZE, "bright") for model in (before, after)]
    assert np.allclose(outputs[0].embedding, outputs[1].embedding, atol=1e-4)
    assert outputs[1].probabilities is not None
    assert outputs[1].probabilities.shape == (1, 5)


def test_groups_of_one_name_become_one_class(tmp_path: Path) -> None:
    old = make_model(tmp_path / "model")
    both, one = make_discovery(tmp_path / "both", old, 20), make_discovery(tmp_path / "one", old, 20)
    for name in ("embedding", "shape"):
        parts = np.array_split(np.load(both / f"groups/1/{name}.npy"), [8])
        for number, part in enumerate(parts, start=1):
            (both / f"groups/{number}").mkdir(exist_ok=True)
            np.save(both / f"groups/{number}/{name}.npy", part)
    names: tuple[dict[int, str], ...] = ({1: "fourth"}, {1: "fourth", 2: "fourth"})
    whole, joined = (load_model(add_classes(folder, tmp_path / f"of_{folder.name}", found)) for folder, found in zip((one, both), names, strict=True))
    assert joined.card == whole.card
    assert all(torch.equal(a, b) for a, b in zip(joined.network.state_dict().values(), whole.network.state_dict().values(), strict=True))
    assert json.loads((tmp_path / "of_both/manifest.json").read_text())["added"] == {"fourth": {"groups": [1, 2], "particles": 20}}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({1: "first"}, "there is a class 'first' already"),
        ({1: "First"}, "classes first and First differ in punctuation or capitals"),
        ({1: "a/b"}, "cannot be called 'a/b'"),
        ({1: "unknown"}, "a meaning of its own"),
        ({1: "membrane"}, "a meaning of its own"),
        ({2: "fifth"}, "has no group 2"),
    ],
)
def test_a_class_that_cannot_be_added_is_refused(tmp_path: Path, names: dict[int, str], sentence: str) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(InputError, match=sentence):
        add_classes(make_discovery(tmp_path / "discovery", model, 5), tmp_path / "grown", names)
    assert not (tmp_path / "grown").exists()


def test_another_model_is_refused(tmp_path: Path) -> None:
    discovery = make_discovery(tmp_path / "discovery", make_model(tmp_path / "model"), 5)
    torch.manual_seed(1)
    with pytest.raises(InputError, match="is not the one that the groups were found with"):
        add_classes(discovery, tmp_path / "grown", {1: "fourth"}, make_model(tmp_path / "other"))


def test_a_model_that_is_shown_other_spectra_is_refused(tmp_path: Path) -> None:
    """Its weights are the same, but not its embedding."""
    first = make_model(tmp_path / "model")
    discovery, model = make_discovery(tmp_path / "discovery", first, 5), load_model(first, "cpu", "float32")
    card = replace(model.card, network=model.card.network.model_copy(update={"spectrum": "kept"}))
    changed = Model(model.network, card, "cpu", "float32", model.novelty).save(tmp_path / "changed", None, [])
    with pytest.raises(InputError, match=r"spectrum=particles, but the model .* has kept"):
        add_classes(discovery, tmp_path / "grown", {1: "fourth"}, changed)


def test_a_model_grows_round_by_round_on_the_same_predictions(tmp_path: Path) -> None:
    """Adding a class leaves the embedding as it was, so that groups found with the first model are of use to all that come of it."""
    first = make_model(tmp_path / "model")
    discovery = make_discovery(tmp_path / "discovery", first, 5)
    second = add_classes(discovery, tmp_path / "second", {1: "fourth"})
    assert json.loads((second / "manifest.json").read_text())["trained"] == json.loads((first / "manifest.json").read_text())
    third = add_classes(discovery, tmp_path / "third", {1: "fifth"}, second)
    assert load_model(add_classes(discovery, tmp_path / "last", {1: "sixth"}, third)).card.class_names == (*OLD, "fourth", "fifth", "sixth")
    later = make_discovery(tmp_path / "later", third, 5)
    with pytest.raises(InputError, match="or one that add-class made of it"):
        add_classes(later, tmp_path / "none", {1: "sixth"}, second)


def test_group_without_a_name_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["add-class", str(tmp_path), str(tmp_path / "grown"), "ribosome"])
    assert result.exit_code == 2
    assert "GROUP=NAME was expected" in result.output
