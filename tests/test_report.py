"""`report` on a make-believe dataset, whole and damaged."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_predictions import CLASS_NAMES, Fake, make_fake

import triptych
from triptych.config import ReportConfig
from triptych.errors import InputError, counted
from triptych.io.files import to_plain
from triptych.io.manifest import describe_input, hash_file, write_manifest
from triptych.io.mrc import read_mrc, write_mrc
from triptych.io.output_names import WEIGHTS
from triptych.io.predictions import read_predictions
from triptych.io.star import probability_column, read_star, write_star
from triptych.io.store import open_store
from triptych.judging import metrics
from triptych.judging.metrics import principal_components
from triptych.judging.report_metrics import collect_metrics
from triptych.judging.scoring import match_truth, score_particles
from triptych.pages import figures
from triptych.pages.gallery import Gallery, draw_evenly, pick_in_turn
from triptych.pages.page import scale_bar
from triptych.pages.report_page import TOMOGRAMS, page_warnings
from triptych.parallel import Progress
from triptych.stages.report import report
from triptych.volume import Volume

SHORT = ReportConfig(gallery=6)
VOID = {"meta", "input", "br", "wbr", "img", "link", "hr"}


class Page(HTMLParser):
    """Collects what a page would load, and checks that its elements are nested well."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    return make_fake(tmp_path_factory.mktemp("fake"), warning="The data look inverted!", tomograms=5)


@pytest.fixture(scope="module")
def judged(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(fake.predictions, tmp_path_factory.mktemp("judged") / "report", fake.truth, SHORT)


@pytest.fixture
def copy(fake: Fake, tmp_path: Path) -> Path:
    """A prediction folder to damage."""
    return Path(shutil.copytree(fake.predictions, tmp_path / "predictions"))


def change_table(folder: Path, change: Any) -> None:
    table = read_star(folder / "particles.star")["particles"]
    write_star(folder / "particles.star", {"particles": change(table)})


def change_manifest(folder: Path, **entries: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def read_metrics(folder: Path) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    return found


def judge(predictions: Path, truth: Path, on_progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """What would stand in metrics.json, without the pictures."""
    given = read_predictions(predictions)
    known = match_truth(given, truth)
    found: dict[str, Any] = to_plain(collect_metrics(given, known, score_particles(given, known, on_progress)))
    return found


# ------------------------------------------------------------------------------------------------------------- whole


def test_metrics_agree_with_the_files(fake: Fake, judged: Path) -> None:
    found = read_metrics(judged)
    assert found["particles"] == len(fake.label)
    right, tomogram = fake.label == fake.predicted, np.asarray(open_store(fake.truth)["tomogram"][:])
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["accuracy_interval"] == pytest.approx(metrics.share_interval(right, tomogram))
    assert found["accuracy_interval"] != pytest.approx(metrics.share_interval(right))
    assert np.array(found["confusion_matrix"]).trace() == (fake.label == fake.predicted).sum()
    store, ious, correlations = open_store(fake.truth), [], []
    for i in np.flatnonzero(fake.label != CLASS_NAMES.index("none")):
        name = f"particle_{i:06d}.mrc"
        mask, truth = read_mrc(fake.predictions / "masks" / name).data > 0, store["mask"][int(i)] > 0
        ious.append((mask & truth).sum() / (mask | truth).sum())
        density = read_mrc(fake.predictions / "densities" / name).data
        correlations.append(np.corrcoef(density.ravel(), np.asarray(store["density"][int(i)], np.float64).ravel())[0, 1])
    assert found["mean_iou"] == pytest.approx(np.mean(ious))
    assert found["mean_density_correlation"] == pytest.approx(np.mean(correlations), abs=1e-6)
    assert found["classes"][-1]["mean_iou"] is None
    assert {row["name"]: row["particles"] for row in found["classes"]} == dict.fromkeys(CLASS_NAMES, 6)
    assert found["predicted"]["counts"] == {name: int((fake.predicted == k).sum()) for k, name in enumerate(CLASS_NAMES)}
    shells = found["fourier_shell_correlation"]
    assert len(shells["mean"]) == len(shells["frequency_per_angstrom"])
    assert max(shells["mean"]) <= 1


def test_thresholds(fake: Fake, judged: Path) -> None:
    table = read_star(fake.predictions / "particles.star")["particles"]
    kept = (table["triptychProbability"] >= 0.7) & (table["triptychClass"] != "none")
    row = next(row for row in read_metrics(judged)["thresholds"] if row["probability"] == 0.7)
    assert row["kept"] == kept.sum()
    assert row["precision"] == pytest.approx((fake.label == fake.predicted)[kept].mean())


def test_particle_table(fake: Fake, judged: Path) -> None:
    table = pd.read_csv(judged / "particles.csv", keep_default_na=False, na_values=[""])
    assert table["true_class"].tolist() == [CLASS_NAMES[k] for k in fake.label]
    assert table["class"].tolist() == [CLASS_NAMES[k] for k in fake.predicted]
    np.testing.assert_allclose(table["snr"], fake.snr, rtol=1e-4)
    assert table["iou"].between(0, 1).all()


def test_page_loads_nothing_and_shows_everything(judged: Path) -> None:
    page = Page(judged / "report.html")
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not {"script", "iframe", "link", "object", "embed", "form"} & set(page.tags)
    text = (judged / "report.html").read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?#)", text)
    assert "The data look inverted!" in page.text
    for words in ("Which class is taken for which", "Fourier shell correlation", "Which threshold?", "Map of the embedding", "Lowest IoU"):
        assert words in page.text
    for stand_in in figures.PAGE_COLOURS:
        assert stand_in not in text
    assert page.tags.count("article") == SHORT.gallery
    assert {path.name for path in judged.iterdir()} == {"metrics.json", "report.html", "manifest.json", "particles.csv"}
    assert json.loads((judged / "manifest.json").read_text())["stage"] == "report"


def test_same_page_twice(fake: Fake, judged: Path, tmp_path: Path) -> None:
    again = report(fake.predictions, tmp_path / "again", fake.truth, SHORT)
    for name in ("report.html", "metrics.json", "particles.csv"):
        assert (again / name).read_bytes() == (judged / name).read_bytes()


def test_without_truth(fake: Fake, tmp_path: Path) -> None:
    out = report(fake.predictions, tmp_path / "report", None, SHORT)
    found = read_metrics(out)
    assert found["truth"] is None
    assert "accuracy" not in found
    page = Page(out / "report.html")
    assert "Median probability" in page.text
    assert "Least certain class" in page.text
    assert "True density" not in page.text
    assert not (out / "particles.csv").exists()


def test_what_was_called_unknown_is_shown(copy: Path, tmp_path: Path) -> None:
    before = read_metrics(report(copy, tmp_path / "before", None, SHORT))
    given = read_predictions(copy)
    assert given.label is not None
    unknown = np.arange(len(given)) % 3 == 0
    change_table(copy, lambda table: table.assign(triptychNovelty=np.where(unknown, 0.9, 0.1), triptychVerdict=np.where(unknown, "unknown", "known")))
    found, page = read_metrics(report(copy, tmp_path / "report", None, SHORT)), Page(tmp_path / "report" / "report.html").text
    assert found["predicted"]["unknown_share"] == pytest.approx(unknown.mean())
    assert sum(found["predicted"]["unknown_by_class"].values()) == unknown.sum()
    for words in ("Called “unknown”", f"{100 * unknown.mean():.1f} %", "of these unknown"):
        assert words in page
    assert "0.90 (unknown)" in page
    named = np.array([given.class_names[k] != "none" for k in given.label])
    assert before["thresholds"][0]["kept"] == (named & ~given.is_unknown).sum()
    assert found["thresholds"][0]["kept"] == (named & ~unknown).sum()


def test_expected_correlations_are_judged_and_shown(copy: Path, fake: Fake, tmp_path: Path) -> None:
    before = read_metrics(report(copy, tmp_path / "before", fake.truth, SHORT))
    assert "fidelity" not in before
    assert "fidelity" not in pd.read_csv(tmp_path / "before/particles.csv")
    found = pd.read_csv(tmp_path / "before/particles.csv")["density_correlation"].fillna(0.1).to_numpy()  # "none" has no true density
    change_table(copy, lambda table: table.assign(triptychFidelity=found - 0.02))
    figures = read_metrics(report(copy, tmp_path / "report", fake.truth, SHORT))["fidelity"]
    assert figures["bias"] == pytest.approx(-0.02, abs=1e-3)
    assert figures["error"] == pytest.approx(0.02, abs=1e-3)
    assert figures["rank_correlation"] == pytest.approx(1.0, abs=1e-3)
    page = Page(tmp_path / "report/report.html").text
    assert "Is it known which densities to believe?" in page
    assert "rank correlation 1.00" in page
    report(copy, tmp_path / "blind", None, SHORT)
    blind = Page(tmp_path / "blind/report.html").text
    assert "Which densities to believe." in blind
    assert "Lowest fidelity" in blind
    for wrong in ("high", 7.0):
        change_table(copy, lambda table, wrong=wrong: table.assign(triptychFidelity=wrong))
        with pytest.raises(InputError, match="triptychFidelity"):
            report(copy, tmp_path / "wrong", fake.truth, SHORT)


def test_verdicts_are_compared_once_for_all_tomograms(copy: Path) -> None:
    change_table(copy, lambda table: table.assign(triptychVerdict="unknown"))
    given = read_predictions(copy)
    assert given.is_unknown.all()
    assert given.is_unknown is given.is_unknown


def test_a_bad_tomogram_comes_first(copy: Path, tmp_path: Path) -> None:
    assert read_metrics(report(copy, tmp_path / "one", None, SHORT))["tomograms"] is None  # the table names no tomogram

    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        turn = np.arange(len(table)) % 3
        return table.assign(triptychClass=np.where(turn == 1, "none", table["triptychClass"]), rlnTomoName=np.array(["TS_1", "TS_2", "TS_3"])[turn])

    change_table(copy, spoil)
    out = report(copy, tmp_path / "report", None, SHORT)
    first, *others = read_metrics(out)["tomograms"]
    assert (first["name"], first["particles"], first["classes"], first["none_share"]) == ("TS_2", 12, {"none": 12}, 1)
    assert first["stands_out"] > 2 > max(item["stands_out"] for item in others)
    table = read_star(copy / "particles.star")["particles"]
    for item in (first, *others):
        own = table[table["rlnTomoName"] == item["name"]]
        assert item["classes"] == own["triptychClass"].value_counts().to_dict()
        assert item["median_probability"] == pytest.approx(own["triptychProbability"].median())
        assert item["unknown_share"] is None
    assert Page(out / "report.html").text.index("TS_2") < Page(out / "report.html").text.index("TS_1")


def test_many_tomograms_are_listed_in_part(copy: Path, tmp_path: Path) -> None:
    change_table(copy, lambda table: table.assign(rlnMicrographName=[f"TS_{i:02d}.mrc" for i in range(len(table))]))
    out = report(copy, tmp_path / "report", None, SHORT)
    tomograms = read_metrics(out)["tomograms"]
    assert len(tomograms) == 36
    assert max(item["stands_out"] for item in tomograms) <= 1  # of a single particle each
    page = (out / "report.html").read_text()
    assert len(re.findall(r"TS_<wbr>\d\d", page)) == TOMOGRAMS
    assert f"These are {TOMOGRAMS} of 36" in page


def test_rows_in_any_order(copy: Path, fake: Fake, judged: Path) -> None:
    seen: list[tuple[int, int]] = []
    order = np.random.default_rng(0).permutation(len(fake.label))
    change_table(copy, lambda table: table.iloc[order])
    found = judge(copy, fake.truth, on_progress=lambda done, total: seen.append((done, total)))
    for key in ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error"):
        assert found[key] == pytest.approx(read_metrics(judged)[key])
    assert seen == [(i + 1, len(fake.label)) for i in range(len(fake.label))]
    assert np.array_equal(read_predictions(copy).embedding, np.load(fake.predictions / "embedding.npy")[order])
    change_table(copy, lambda table: table.iloc[3:5])
    assert np.array_equal(read_predictions(copy).embedding, np.load(fake.predictions / "embedding.npy")[order[3:5]])


@pytest.mark.parametrize(
    ("drop", "absent"),
    [("triptych(Class|Probability.*)", "accuracy"), ("triptychMask", "mean_iou"), ("triptychDensity", "mean_density_correlation")],
)
def test_tasks_that_were_switched_off(copy: Path, fake: Fake, tmp_path: Path, drop: str, absent: str) -> None:
    change_table(copy, lambda table: table[[name for name in table if not re.fullmatch(drop, name)]])
    out = report(copy, tmp_path / "report", fake.truth, ReportConfig(gallery=2))
    assert Page(out / "report.html").tags.count("article") == 2
    found = read_metrics(out)
    wanted = {"accuracy", "mean_iou", "mean_density_correlation"} - {absent}
    assert found[absent] is None
    assert all(found[key] is not None for key in wanted)


def test_truth_that_was_cut_from_tomograms_has_no_densities(fake: Fake, copy: Path, tmp_path: Path) -> None:
    truth = tmp_path / "cut.zarr"
    shutil.copytree(fake.truth, truth)
    shutil.rmtree(truth / "density")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "inputs": [describe_input(truth)]}))
    found = read_metrics(report(copy, tmp_path / "report", truth, ReportConfig(gallery=2)))
    assert found["mean_density_correlation"] is None
    assert found["accuracy"] is not None
    assert found["mean_iou"] is not None


def test_model_that_knows_more_classes_than_the_truth(tmp_path: Path) -> None:
    fake = make_fake(tmp_path / "fake", count=12, size=8)
    names = [*CLASS_NAMES[:2], "tric", *CLASS_NAMES[2:]]
    manifest = json.loads((fake.predictions / "manifest.json").read_text())
    change_manifest(fake.predictions, model={**manifest["model"], "class_names": names})
    change_table(fake.predictions, lambda table: table.assign(triptychProbabilityTric=0.0))
    found = judge(fake.predictions, fake.truth)
    assert found["accuracy"] == pytest.approx((fake.label == fake.predicted).mean())
    assert len(found["confusion_matrix"]) == len(names)


def test_classes_that_differ_in_case_only_keep_their_probabilities(tmp_path: Path) -> None:
    fake = make_fake(tmp_path, count=6, size=8, class_names=("rIb", "rib", "none"))
    given = read_predictions(fake.predictions)
    assert given.probabilities is not None
    assert np.array_equal(given.probabilities.argmax(1), fake.predicted)
    assert np.allclose(given.probabilities.sum(1), 1)


def forget_class(predictions: Path, name: str, verdicts: list[str]) -> None:
    """Make predictions those of a model that does not know a class and calls its particles by another name."""
    manifest = json.loads((predictions / "manifest.json").read_text())
    names = [other for other in CLASS_NAMES if other != name]
    change_manifest(predictions, model={**manifest["model"], "class_names": names})
    column = probability_column(name)
    change_table(
        predictions,
        lambda table: table.drop(columns=column).assign(triptychClass=table["triptychClass"].replace(name, "hsp90_sba1"), triptychVerdict=verdicts),
    )


def test_truth_with_classes_that_the_model_does_not_know(fake: Fake, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    is_new = fake.label == CLASS_NAMES.index("spike")
    called = is_new & (np.cumsum(is_new) % 2 == 1)
    called[np.flatnonzero(~is_new)[:3]] = True
    forget_class(copy, "spike", ["unknown" if unknown else "none" for unknown in called])
    given = read_predictions(copy)
    found = read_metrics(report(copy, tmp_path / "report", fake.truth, SHORT))
    names = np.array(CLASS_NAMES)[fake.label]
    right = np.array(given.class_names)[given.label] == names
    assert found["accuracy"] == pytest.approx(right[~is_new].mean())
    assert (found["particles"], found["particles_of_known_classes"]) == (len(is_new), (~is_new).sum())
    assert found["called_unknown"]["of_new_classes"] == pytest.approx(called[is_new].mean())
    assert found["called_unknown"]["of_known_classes"] == pytest.approx(3 / (~is_new).sum())
    assert sum(found["reliability"]["particles"]) == (~is_new).sum()
    assert [row["name"] for row in found["classes"]] == [*given.class_names, "spike"]
    assert found["classes"][-1]["recall"] is None
    assert found["classes"][-1]["mean_iou"] is not None  # masks and densities of what is new are compared too
    for text in (Page(tmp_path / "report" / "report.html").text, caplog.text):
        assert f"{is_new.sum()} particles of classes that the model does not know (spike {is_new.sum()})" in text
    change_table(copy, lambda table: table.drop(columns="triptychVerdict"))
    assert "triptych calibrate" in page_warnings(read_predictions(copy), match_truth(read_predictions(copy), fake.truth))[-1]


def test_a_single_particle(tmp_path: Path) -> None:
    fake = make_fake(tmp_path / "fake", count=1, size=8)
    found = read_metrics(report(fake.predictions, tmp_path / "report", fake.truth))
    assert found["particles"] == 1
    text = Page(tmp_path / "report/report.html").text
    assert "1 particle," in text
    assert "1 particles" not in text
    assert [counted(1, "class", "classes"), counted(0, "class", "classes"), counted(1234, "particle")] == ["1 class", "0 classes", "1,234 particles"]


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "a&b$x_{1}$", '"quoted"', "none")
    fake = make_fake(tmp_path / "fake", count=8, size=8, class_names=names, warning="<img src=x onerror=alert(1)>")
    out = report(fake.predictions, tmp_path / "report", fake.truth, ReportConfig(gallery=4))
    page = Page(out / "report.html")
    assert "script" not in page.tags
    assert "img" not in page.tags
    for words in (*names, "<img src=x onerror=alert(1)>"):
        assert words in page.text


def test_input_that_is_gone(copy: Path, tmp_path: Path) -> None:
    change_table(copy, lambda table: table.drop(columns=[name for name in table if name.startswith(("triptychClass", "triptychProb"))]))
    particles = json.loads((copy / "manifest.json").read_text())["particles"]
    change_manifest(copy, particles={**particles, "path": str(tmp_path / "gone.zarr")})
    page = Page(report(copy, tmp_path / "report", None, SHORT) / "report.html")
    assert "could not all be read again" in page.text
    assert "Low-passed" not in page.text
    assert "Recovered density" in page.text


def test_dark_input_is_shown_with_protein_bright(fake: Fake, copy: Path) -> None:
    bright = Gallery(read_predictions(copy), None, None).read_input(0, None)
    particles = json.loads((copy / "manifest.json").read_text())["particles"]
    change_manifest(copy, particles={**particles, "contrast": "dark"})
    dark = Gallery(read_predictions(copy), None, None).read_input(0, None)
    assert bright is not None
    assert dark is not None
    np.testing.assert_array_equal(dark.data, -bright.data)


def test_truth_of_which_the_model_knows_nothing(tmp_path: Path) -> None:
    fake = make_fake(tmp_path / "fake", count=9, size=8, class_names=("spike", "tric", "groel"))
    manifest = json.loads((fake.predictions / "manifest.json").read_text())
    change_manifest(fake.predictions, model={**manifest["model"], "class_names": ["a", "b"]})
    stated = {"triptychProbability": 0.75, "triptychProbabilityA": 0.75, "triptychProbabilityB": 0.25}
    columns = {**stated, "triptychClass": "a", "triptychVerdict": "unknown"}
    change_table(fake.predictions, lambda table: table[[name for name in table if "triptychProbability" not in name]].assign(**columns))
    found = read_metrics(report(fake.predictions, tmp_path / "report", fake.truth, SHORT))
    assert found["called_unknown"]["of_new_classes"] == 1


def test_truth_from_elsewhere_is_doubted(fake: Fake, copy: Path) -> None:
    given = read_predictions(copy)
    assert page_warnings(given, match_truth(given, fake.truth)) == ["The data look inverted!"]
    change_manifest(copy, inputs=[])
    with pytest.raises(InputError, match="another store"):
        match_truth(read_predictions(copy), fake.truth)
    particles = json.loads((copy / "manifest.json").read_text())["particles"]
    change_manifest(copy, inputs=[], particles={**particles, "kind": "files"})
    given = read_predictions(copy)
    assert "something else" in page_warnings(given, match_truth(given, fake.truth))[1]


def test_truth_that_the_model_has_learned_from_is_told_of(fake: Fake, copy: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / WEIGHTS).write_bytes(b"weights")
    about = {**json.loads((copy / "manifest.json").read_text())["model"], "sha256": hash_file(model / WEIGHTS)}
    change_manifest(copy, model=about, inputs=[describe_input(fake.truth), {"path": str(model)}])

    def says_so() -> bool:
        given = read_predictions(copy)
        return any("what it remembers" in text for text in page_warnings(given, match_truth(given, fake.truth)))

    for learned_from, warns in ((fake.truth, True), (fake.predictions, False)):
        write_manifest(model, "train", None, [learned_from], 0)
        assert says_so() == warns
        # The model that was made of it knows that from it.
        write_manifest(model, "calibrate", None, [], 0, {"trained": json.loads((model / "manifest.json").read_text())})
        assert says_so() == warns


# ------------------------------------------------------------------------------------------------- another program's


def export(predictions: Path, folder: Path, rows: np.ndarray | None = None) -> Path:
    """What `predict` wrote, as another program would hand it over."""
    given = read_predictions(predictions)
    rows = np.arange(len(given)) if rows is None else rows
    folder.mkdir()
    table = pd.DataFrame({"name": given.names, **dict(zip(given.class_names, given.probabilities.T, strict=True))})
    table.iloc[rows].to_csv(folder / "predictions.csv", index=False)
    for what, paths in (("masks", given.masks), ("densities", given.densities)):
        np.save(folder / f"{what}.npy", np.stack([read_mrc(paths[i]).data for i in rows]))
    return folder


def figures_alone(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "predictions"}


def test_own_predictions_handed_over_by_another_program_get_the_same_figures(fake: Fake, judged: Path, tmp_path: Path) -> None:
    other = export(fake.predictions, tmp_path / "other")
    found = report(other, tmp_path / "report", fake.truth, SHORT)
    assert figures_alone(read_metrics(found)) == figures_alone(read_metrics(judged))
    page = Page(found / "report.html").text
    assert "another program" in page
    assert "Low-passed" in page  # the subtomograms are found in the store
    assert "Map of the embedding" not in page
    given = read_predictions(fake.predictions)
    maps = {what: np.load(other / f"{what}.npy") for what in ("masks", "densities")}
    assert figures_alone(triptych.judge(fake.truth, probabilities=given.probabilities, **maps)) == figures_alone(read_metrics(judged))


def test_some_particles_of_another_program_in_any_order(fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.array([17, 3, 4, 30])
    found = read_metrics(report(export(fake.predictions, tmp_path / "other", rows), tmp_path / "report", fake.truth, SHORT))
    assert found["particles"] == 4
    assert found["accuracy"] == (fake.label == fake.predicted)[rows].mean()
    assert found["mean_iou"] > 0.3  # masks of the particles that the table names
    classes = [CLASS_NAMES[k] for k in fake.label[rows]]
    right = triptych.judge(fake.truth, rows, classes=[*classes[:3], "a stranger"])
    with pytest.raises(InputError, match="class_names"):
        triptych.judge(fake.truth, rows, probabilities=np.ones((4, 1)))
    assert "a stranger" in caplog.text
    assert (right["accuracy"], right["expected_calibration_error"], right["mean_iou"]) == (0.75, None, None)


def test_masks_alone_of_another_program(fake: Fake, judged: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "masks.npy", open_store(fake.truth)["mask"][:] > 0)
    found = read_metrics(report(tmp_path / "other", tmp_path / "report", fake.truth, SHORT))
    assert (found["mean_iou"], found["accuracy"], found["mean_density_correlation"]) == (1, None, None)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,class\nparticle_000001,spike\nparticle_000001,spike\n", "particle_000001"),
        ("name,class\nparticle_009999,spike\n", "particle_009999"),
        ("class\nspike\n", "holds classes of 1 particle, but 36 were expected"),
        ("name,probability\nparticle_000001,0.5\n", "at least one"),
        ("name,spike,none,score\nparticle_000001,0.5,0.5,0.9\n", "add up to 1.9"),
        ("name,class,verdict\nparticle_000001,spike,spike\n", "verdict"),
        ("name,class\n", "no particles"),
        ("name,spike,x\nparticle_000001,0.5,90\n", "between 0 and 1"),
        ("name,class,spike,none\nparticle_000001,apoferritin,0.5,0.5\n", "no probabilities of that class"),
    ],
)
def test_table_of_another_program_that_cannot_be_judged(fake: Fake, tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "predictions.csv").write_text(table)
    refuse(tmp_path / "other", tmp_path / "report", fake.truth, words)


def test_maps_of_another_program_that_cannot_be_judged(fake: Fake, tmp_path: Path) -> None:
    maps = np.zeros((36, 16, 16, 16), np.float32)
    with pytest.raises(InputError, match="probabilities"):
        triptych.judge(fake.truth, masks=maps - 3)  # logits
    with pytest.raises(InputError, match="NaN"):
        triptych.judge(fake.truth, densities=maps * np.nan)
    with pytest.raises(InputError, match="has shape"):
        triptych.judge(fake.truth, densities=maps[:, :8])
    with pytest.raises(InputError, match="4 axes"):
        triptych.judge(fake.truth, densities=maps[0])
    with pytest.raises(InputError, match="a class twice"):
        triptych.judge(fake.truth, classes=["spike"] * 36, class_names=["spike", "spike"])
    np.save(tmp_path / "masks.npy", maps)
    refuse(tmp_path, tmp_path / "report", None, "--truth")


# ------------------------------------------------------------------------------------------------------------ damaged


def refuse(predictions: Path, out: Path, truth: Path | None, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        report(predictions, out, truth, SHORT)
    message = str(caught.value)
    assert "\n" not in message
    assert ". " not in message
    assert not out.exists()
    assert not list(out.parent.glob(".*.part"))


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", tmp_path / "report", None, "does not exist")


def test_folder_that_is_no_prediction(fake: Fake, judged: Path, tmp_path: Path) -> None:
    refuse(judged, tmp_path / "report", None, "triptych report.*expected")
    refuse(fake.truth, tmp_path / "report", None, "manifest")
    refuse(fake.predictions / "particles.star", tmp_path / "report", None, "folder")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("triptychName", "_triptychName"),
        ("triptychProbability", "no column _triptychProbability,"),
        ("triptychProbabilitySpike", 'class "spike"'),
        ("triptych(Class|Mask|Density)", "nothing to report"),
    ],
)
def test_missing_column(copy: Path, tmp_path: Path, column: str, words: str) -> None:
    change_table(copy, lambda table: table[[name for name in table if not re.fullmatch(column, name)]])
    refuse(copy, tmp_path / "report", None, words)


def test_table_that_does_not_fit(copy: Path, tmp_path: Path) -> None:
    whole = read_star(copy / "particles.star")["particles"]
    for change, words in (
        (whole.iloc[:0], "no particles"),
        (whole.iloc[:-1].drop(columns="triptychEmbeddingRow"), "embedding"),
        (whole.assign(triptychEmbeddingRow=1), "does not name a row"),
        (whole.assign(triptychEmbeddingRow=range(len(whole))), "does not name a row"),
        (whole.assign(triptychName=whole["triptychName"].to_numpy()[::-1]), "another's"),
        (whole.assign(triptychName="particle_000001"), "twice"),
        (whole.assign(triptychClass="yeti"), "yeti"),
        (whole.assign(triptychProbability="high"), "no probabilities"),
        (whole.assign(triptychProbability=7.0), "no probabilities"),
        (whole.assign(triptychProbability=np.nan), "no probabilities"),
    ):
        change_table(copy, lambda _, change=change: change)
        refuse(copy, tmp_path / "report", None, words)


def test_missing_files(copy: Path, tmp_path: Path) -> None:
    (copy / "embedding.npy").rename(copy / "away.npy")
    refuse(copy, tmp_path / "report", None, r"embedding\.npy is missing")
    (copy / "embedding.npy").write_bytes(b"no array")
    refuse(copy, tmp_path / "report", None, "not a whole NumPy array")
    (copy / "away.npy").rename(copy / "embedding.npy")
    (copy / "masks" / "particle_000007.mrc").unlink()
    refuse(copy, tmp_path / "report", None, r"particle_000007\.mrc is missing")


def test_truncated_mask(copy: Path, fake: Fake, tmp_path: Path) -> None:
    path = copy / "masks" / "particle_000007.mrc"
    path.write_bytes(path.read_bytes()[:-10])
    refuse(copy, tmp_path / "report", fake.truth, "truncated")


def test_mask_of_another_box(copy: Path, fake: Fake, tmp_path: Path) -> None:
    write_mrc(copy / "masks" / "particle_000007.mrc", Volume(np.zeros((8, 8, 8), np.float32), 10.0))
    refuse(copy, tmp_path / "report", fake.truth, "has shape")


def test_manifest_without_classes(copy: Path, tmp_path: Path) -> None:
    change_manifest(copy, model={})
    refuse(copy, tmp_path / "report", None, "names no classes")


def test_truth_that_does_not_belong(fake: Fake, copy: Path, tmp_path: Path) -> None:
    fewer = make_fake(tmp_path / "fewer", count=12, size=16)
    refuse(fake.predictions, tmp_path / "report", fewer.truth, "12 particles")
    others = make_fake(tmp_path / "others", class_names=("yeti", *CLASS_NAMES[1:]), size=8)
    refuse(fake.predictions, tmp_path / "report", others.truth, "another store")
    smaller = make_fake(tmp_path / "smaller", size=8)
    refuse(fake.predictions, tmp_path / "report", smaller.truth, "another store")
    refuse(fake.predictions, tmp_path / "report", tmp_path, "Zarr")
    change_table(copy, lambda table: table.assign(triptychName=[f"tomogram_{i}" for i in range(len(table))]))
    refuse(copy, tmp_path / "report", fake.truth, "another's")
    change_table(copy, lambda table: table.drop(columns=["triptychMask", "triptychDensity"]))
    refuse(copy, tmp_path / "report", fake.truth, "tomogram_0")


def test_output_that_exists(fake: Fake, judged: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        report(fake.predictions, judged, None, SHORT)


# --------------------------------------------------------------------------------------------------------------- parts


def test_particles_are_drawn_evenly_and_by_the_seed() -> None:
    label = np.repeat([0, 1, 2, 3], [100, 50, 3, 1])
    chosen = draw_evenly(label, 12, np.random.default_rng(0))
    assert np.bincount(label[chosen]).tolist() in ([4, 4, 3, 1], [5, 3, 3, 1], [3, 5, 3, 1])
    assert len(set(chosen.tolist())) == 12
    np.testing.assert_array_equal(chosen, draw_evenly(label, 12, np.random.default_rng(0)))
    assert draw_evenly(label, 0, np.random.default_rng(0)).size == 0
    assert draw_evenly(label, 1000, np.random.default_rng(0)).size == len(label)


def test_pick_in_turn_takes_none_twice() -> None:
    lists = [("a", np.array([3, 1])), ("b", np.array([3, 2, 5, 6]))]
    assert pick_in_turn(lists, 4) == [(3, "a"), (1, "a"), (2, "b"), (5, "b")]
    assert pick_in_turn(lists, 100) == [(3, "a"), (1, "a"), (2, "b"), (5, "b"), (6, "b")]
    assert pick_in_turn([], 3) == []


def test_principal_components_find_the_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) * [5, 2]
    axes = np.linalg.qr(rng.normal(size=(8, 8)))[0][:2]
    points, shares = principal_components(plane @ axes + 3)
    assert shares.sum() == pytest.approx(1)
    between = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), between, atol=1e-9)
    assert principal_components(np.zeros((1, 4)))[0].shape == (1, 2)


def test_outline_goes_around_the_mask() -> None:
    mask = np.zeros((10, 12), bool)
    mask[3:6, 2:9] = True
    numbers = np.array(re.findall(r"[-\d.]+", figures.outline(mask)), float).reshape(-1, 2)
    assert numbers.min(axis=0).tolist() == [2, 3]
    assert numbers.max(axis=0).tolist() == [9, 6]
    assert figures.outline(np.zeros((4, 4), bool)) == ""


def test_grey_scale() -> None:
    assert figures.to_grey(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]]), (0.0, 1.0)).tolist() == [[0, 0, 128, 255, 255]]
    assert figures.to_grey(np.ones((1, 2)), (1.0, 1.0)).tolist() == [[0, 0]]


def test_scale_bar_is_round() -> None:
    assert [scale_bar(width) for width in (400.0, 384.0, 1000.0, 90.0)] == [100.0, 100.0, 200.0, 20.0]


def test_json_has_no_nan() -> None:
    value = {"a": np.nan, "b": np.array([1.0, np.inf]), "c": (np.float32(2), np.int64(3)), "d": True}
    assert to_plain(value) == {"a": None, "b": [1.0, None], "c": [2.0, 3], "d": True}


def test_definitions_cover_the_headlines() -> None:
    for key in ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error"):
        assert key in metrics.DEFINITIONS
