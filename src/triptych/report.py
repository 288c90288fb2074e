"""Stage `report`: a prediction folder (and the truth, where it is known) -> metrics.json and report.html.

The page is one file that needs no network and no script. Masks and densities are read one particle at a time, so memory
does not grow with their number.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych import figures, metrics
from triptych.config import NONE_CLASS, UNKNOWN, ReportConfig
from triptych.errors import InputError
from triptych.fourier import fourier_shell_correlation, low_pass
from triptych.io.manifest import describe_input, installed_version, manifest_entry, output_folder, to_plain, write_json, write_manifest
from triptych.io.mrc import read_mrc
from triptych.io.predictions import Predicted, open_input, read_predictions
from triptych.io.store import Store, known_labels, open_store, particle_name
from triptych.metrics import FloatArray, IntArray
from triptych.pages import Panel, density_limits, draw_panel, eye_resolution, render_page
from triptych.volume import Volume

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

SAME_STORE = "give the store that the predictions were made from"
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
KINDS = {"star": "subtomograms of a STAR file", "coordinates": "cut out of tomograms", "files": "MRC files", "store": "dataset of triptych simulate"}
MAP_POINTS = 20_000


# -------------------------------------------------------------------------------------------------------------- stage


def report(
    predictions: Path,
    out: Path,
    truth: Path | None = None,
    config: ReportConfig | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Judge and show what `predict` wrote.

    Parameters
    ----------
    predictions : folder that `predict` wrote
    out : new folder; gets metrics.json, report.html, manifest.json and, with truth, particles.csv
    truth : dataset store (Zarr) that the predictions were made from
    config : settings; default: all defaults
    on_progress : called with the number of particles judged and their total

    Returns
    -------
    The folder `out`.
    """
    config = config or ReportConfig()
    given = read_predictions(Path(predictions))
    known = None if truth is None else match_truth(given, Path(truth))
    if known is not None and not known.is_known.all():
        log.warning(describe_new_classes(given, known))
    with output_folder(out) as part:
        scores = None if known is None else score_particles(given, known, on_progress or (lambda done, total: None))
        figures_of_merit = collect_metrics(given, known, scores)
        write_json(part / "metrics.json", figures_of_merit)
        if scores is not None:
            particle_table(given, known, scores).to_csv(part / "particles.csv", index=False, float_format="%.6g")
        (part / "report.html").write_text(render(given, known, scores, figures_of_merit, config), encoding="utf-8")
        inputs = [given.folder / "particles.star", given.folder / "manifest.json", *([] if truth is None else [truth])]
        write_manifest(part, "report", config, inputs, config.seed, arguments={"predictions": predictions, "truth": truth})
    return Path(out)


# -------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of n particles.

    Attributes
    ----------
    path, store : the dataset
    row : (n,), row of each particle in the store
    class_names : the model's class names, then those of the store's that it does not know; those of the store where the model has no class task
    known : the model knows the first so many
    label : (n,), index of the true class
    snr : (n,) or None
    doubt : a sentence if the store may be another one than the predictions were made from
    """

    path: Path
    store: Store
    row: IntArray
    class_names: tuple[str, ...]
    known: int
    label: IntArray
    snr: FloatArray | None
    doubt: str | None

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether each particle is of a class that the model knows."""
        return self.label < self.known


def match_truth(given: Predicted, path: Path) -> Truth:
    """Find each particle (particle_000123) in the store and translate its label into the model's classes, and others after them."""
    store = open_store(path)
    count = len(store)
    if count != len(given):
        raise InputError(f"{path} holds {count} particles, but {given.folder} has predictions of {len(given)}; {SAME_STORE}")
    found = [re.fullmatch(r"particle_(\d+)", name) for name in given.names]
    strange = [name for name, match in zip(given.names, found, strict=True) if match is None or int(match[1]) >= count]
    if strange:
        raise InputError(f'the predicted particle "{strange[0]}" is not in {path}, which ends with {particle_name(count - 1)}; {SAME_STORE}')
    row = np.array([int(match[1]) for match in found if match is not None], dtype=np.int64)
    label = np.asarray(store["label"][:], np.int64)[row]
    names = store.class_names if given.label is None else given.class_names
    class_names = (*names, *(name for k, name in enumerate(store.class_names) if name not in names and (label == k).any()))
    snr = np.asarray(store["snr"][:], np.float64)[row] if "snr" in store else None
    doubt = _doubt(given.manifest, path)
    if doubt and given.manifest.get("particles", {}).get("kind") == "store":
        raise InputError(f"{given.folder} was predicted from another store than {path}; {SAME_STORE}")
    if doubt:
        log.warning(doubt)
    return Truth(path, store, row, class_names, len(names), known_labels(store, class_names)[row], snr, doubt)


def _doubt(manifest: dict[str, Any], path: Path) -> str | None:
    """A sentence if none of the inputs that the manifest lists is this store."""
    listings = {entry.get("sha256_of_listing") for entry in manifest.get("inputs", ()) if isinstance(entry, dict)}
    if describe_input(path).get("sha256_of_listing") in listings:
        return None
    return f"The predictions were made from something else than the truth in {path}: the figures mean nothing unless both are of the same particles."


@dataclass(frozen=True, eq=False)
class Scores:
    """How well each of n particles was segmented and recovered; NaN where there is nothing to compare.

    Attributes
    ----------
    iou, correlation, correlation_in_mask : (n,); None where masks or densities were not predicted
    frequency, shell_correlation : mean Fourier shell correlation against spatial frequency (1/Å), or None
    """

    iou: FloatArray | None
    correlation: FloatArray | None
    correlation_in_mask: FloatArray | None
    frequency: FloatArray | None
    shell_correlation: FloatArray | None


def score_particles(given: Predicted, known: Truth, on_progress: Progress) -> Scores:
    """Compare masks and densities with the truth, one particle at a time, in the order of the store."""
    order = np.argsort(known.row)
    n = len(given)
    iou, correlation, within = (np.full(n, np.nan) for _ in range(3))
    shells = ShellMean()
    none = known.class_names.index(NONE_CLASS) if NONE_CLASS in known.class_names else -1
    true_masks = known.store["mask"]
    compares = given.densities is not None and "density" in known.store  # stores cut from real tomograms have none
    true_densities = known.store["density"] if compares else None
    for done, i in enumerate(order, 1):
        true_mask = np.asarray(true_masks[int(known.row[i])]) > 0
        if given.masks is not None:
            iou[i] = metrics.intersection_over_union(_read_like(given.masks[i], true_mask) > 0.5, true_mask)
        if given.densities is not None and true_densities is not None:
            density, true_density = _read_like(given.densities[i], true_mask), np.asarray(true_densities[int(known.row[i])], np.float32)
            correlation[i] = metrics.density_correlation(density, true_density)
            within[i] = metrics.density_correlation(density, true_density, true_mask)
            if known.label[i] != none:
                shells.add(density, true_density, known.store.voxel_size)
        on_progress(done, n)
    return Scores(
        None if given.masks is None else iou,
        correlation if compares else None,
        within if compares else None,
        shells.frequency,
        shells.mean(),
    )


class ShellMean:
    """Running mean of Fourier shell correlations."""

    def __init__(self) -> None:
        self.frequency: FloatArray | None = None
        self.total: FloatArray | None = None
        self.count = 0

    def add(self, density: NDArray[np.float32], truth: NDArray[np.float32], voxel_size: float) -> None:
        """Take in one particle; an empty truth or a constant density has no shells to correlate."""
        if not (np.ptp(truth) > 0 and np.ptp(density) > 0):
            return
        self.frequency, correlation = fourier_shell_correlation(density, truth, voxel_size)
        self.total = correlation if self.total is None else self.total + correlation
        self.count += 1

    def mean(self) -> FloatArray | None:
        return None if self.total is None else self.total / self.count


def _read_like(path: Path, like: NDArray[Any]) -> NDArray[np.float32]:
    data = read_mrc(path).data
    if data.shape != like.shape:
        raise InputError(f"{path} has shape {data.shape}, but the truth of that particle has {like.shape}; {SAME_STORE}")
    return data


# ------------------------------------------------------------------------------------------------------------ metrics


def collect_metrics(given: Predicted, known: Truth | None, scores: Scores | None) -> dict[str, Any]:
    """Everything that goes into metrics.json (NaN still in it)."""
    result: dict[str, Any] = {
        "triptych": installed_version(),
        "predictions": str(given.folder),
        "truth": None if known is None else str(known.path),
        "particles": len(given),
        "class_names": list(given.class_names),
        "predicted": _predicted_metrics(given),
        "thresholds": _threshold_rows(given, known),
    }
    if known is not None and scores is not None:
        result |= _truth_metrics(given, known, scores)
        result["definitions"] = metrics.DEFINITIONS
    return result


def _predicted_metrics(given: Predicted) -> dict[str, Any] | None:
    if given.label is None or given.probability is None:
        return None
    count = np.bincount(given.label, minlength=len(given.class_names))
    return {
        "counts": {name: int(n) for name, n in zip(given.class_names, count, strict=True)},
        "median_probability": metrics.median(given.probability),
        "median_probability_by_class": {name: metrics.median(given.probability[given.label == k]) for k, name in enumerate(given.class_names)},
        "none_share": float(count[given.class_names.index(NONE_CLASS)] / len(given)) if NONE_CLASS in given.class_names else None,
    }


def _threshold_rows(given: Predicted, known: Truth | None) -> list[dict[str, float]] | None:
    """Particles of a class other than "none" that stay when a least probability is asked for, and how many of them are right."""
    if given.label is None or given.probability is None:
        return None
    named = np.array([given.class_names[k] != NONE_CLASS for k in given.label])
    rows = []
    for threshold in THRESHOLDS:
        kept = named & (given.probability >= threshold)
        row = {"probability": threshold, "kept": int(kept.sum()), "kept_share": float(kept.mean())}
        if known is not None:
            row["precision"] = metrics.accuracy(known.label[kept], given.label[kept])
        rows.append(row)
    return rows


def _truth_metrics(given: Predicted, known: Truth, scores: Scores) -> dict[str, Any]:
    summary = metrics.summarise(
        known.class_names, known.label, given.label, given.probability, scores.iou, scores.correlation, scores.correlation_in_mask, known.known
    )
    result = asdict(summary)
    if given.verdicts is not None:
        result["called_unknown"] = count_unknown(given.verdicts, known)
    if given.label is not None and given.probability is not None:
        result["confusion_matrix"] = metrics.confusion_matrix(known.label, given.label, len(known.class_names))
        judged = known.is_known
        result["reliability"] = metrics.reliability_curve(given.probability[judged], (given.label == known.label)[judged])._asdict()
    if scores.frequency is not None and scores.shell_correlation is not None:
        result["fourier_shell_correlation"] = {"frequency_per_angstrom": scores.frequency, "mean": scores.shell_correlation}
    trends = snr_trends(given, known, scores)
    if trends:
        result["snr"] = {title: trend._asdict() for title, trend in trends}
    return result


def count_unknown(verdicts: list[str], known: Truth) -> dict[str, float]:
    """Share of the particles that are called unknown, of those of classes that the model does not know, and of those that it knows."""
    called = np.array(verdicts) == UNKNOWN
    return {"of_new_classes": metrics.mean(called[~known.is_known]), "of_known_classes": metrics.mean(called[known.is_known])}


def describe_new_classes(given: Predicted, known: Truth) -> str:
    """A sentence about the particles of classes that the model does not know."""
    counts = [f"{name} {(known.label == k).sum()}" for k, name in enumerate(known.class_names) if k >= known.known]
    text = f"The truth has {(~known.is_known).sum()} particles of classes that the model does not know ({', '.join(counts)}): accuracy, recall and "
    if given.verdicts is None:
        return f"{text}calibration leave them out, and what is new it cannot tell before `triptych calibrate` has shown it what is known."
    share = count_unknown(given.verdicts, known)
    others = f", and {100 * share['of_known_classes']:.1f} % of the others" if known.is_known.any() else ""
    return f"{text}calibration leave them out; {100 * share['of_new_classes']:.1f} % of them were called unknown{others}."


def snr_trends(given: Predicted, known: Truth, scores: Scores) -> list[tuple[str, metrics.Trend]]:
    """Accuracy, IoU and correlation against the SNR, of the particles that are not "none"; empty where the SNRs don't spread."""
    kept = np.array([known.class_names[k] != NONE_CLASS for k in known.label])
    if known.snr is None or kept.sum() < 12:
        return []
    snr = known.snr[kept]
    if not (snr > 0).all() or snr.max() < 1.2 * snr.min():
        return []
    bins = int(np.clip(kept.sum() // 20, 3, 8))
    values = {
        "accuracy": None if given.label is None else np.where(known.is_known, given.label == known.label, np.nan),
        "IoU": scores.iou,
        "density correlation": scores.correlation,
    }
    return [(title, metrics.trend(snr, value[kept], bins)) for title, value in values.items() if value is not None]


def particle_table(given: Predicted, known: Truth | None, scores: Scores) -> pd.DataFrame:
    """One row per particle: what it was called, what it is, and how well it was segmented and recovered."""
    columns: dict[str, Any] = {"name": given.names}
    if given.label is not None:
        columns |= {"class": [given.class_names[k] for k in given.label], "probability": given.probability}
    if known is not None:
        columns |= {"true_class": [known.class_names[k] for k in known.label], "snr": known.snr}
    columns |= {"iou": scores.iou, "density_correlation": scores.correlation, "density_correlation_in_mask": scores.correlation_in_mask}
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


# ------------------------------------------------------------------------------------------------------------ gallery


@dataclass(frozen=True)
class Card:
    """One particle of the gallery; `right`: whether its class is, None where that is not known."""

    name: str
    why: str
    called: str
    right: bool | None
    facts: list[tuple[str, str]]
    panels: list[Panel]


def spread(label: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Up to `count` particles at random, as evenly over the labels as can be, ordered by label."""
    order = rng.permutation(len(label))
    shuffled = label[order]
    rank = np.zeros(len(label), np.int64)  # how many of the same label stand before it
    for k in np.unique(shuffled):
        rank[shuffled == k] = np.arange((shuffled == k).sum())
    chosen = order[np.argsort(rank, kind="stable")[:count]]
    return np.asarray(chosen[np.argsort(label[chosen], kind="stable")], np.int64)


def choose_gallery(given: Predicted, known: Truth | None, scores: Scores | None, config: ReportConfig) -> list[tuple[int, str]]:
    """Which particles to show, and why: two thirds at random over the classes, the rest the doubtful or the worst ones."""
    rng = np.random.default_rng(config.seed)
    count = min(config.gallery, len(given))
    worst = pick_in_turn(worst_lists(given, known, scores), count // 3 if len(given) > 3 else 0)
    taken = np.array([i for i, _ in worst], dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(given)), taken)
    groups = known.label if known is not None else given.label if given.label is not None else np.zeros(len(given), np.int64)
    return [(int(i), "at random") for i in rest[spread(groups[rest], count - len(worst), rng)]] + worst


def worst_lists(given: Predicted, known: Truth | None, scores: Scores | None) -> list[tuple[str, IntArray]]:
    """Reasons to look at a particle, each with the particles from the worst on."""
    if known is None or scores is None:
        return [] if given.probability is None else [("least certain class", np.argsort(given.probability))]
    lists = []
    if given.label is not None and given.probability is not None:
        wrong = np.flatnonzero(given.label != known.label)
        lists.append(("wrong and most certain", wrong[np.argsort(-given.probability[wrong])]))
    kept = np.array([known.class_names[k] != NONE_CLASS for k in known.label])
    for why, values in (("lowest IoU", scores.iou), ("lowest correlation", scores.correlation)):
        if values is not None:
            candidates = np.flatnonzero(kept & np.isfinite(values))
            lists.append((why, candidates[np.argsort(values[candidates])]))
    return lists


def pick_in_turn(lists: list[tuple[str, IntArray]], count: int) -> list[tuple[int, str]]:
    """The best of each list in turn, none twice, until there are `count`; ordered by list."""
    chosen: dict[int, str] = {}
    queues = [(why, iter(order.tolist())) for why, order in lists]
    while queues and len(chosen) < count:
        for queue in list(queues):
            why, items = queue
            item = next((i for i in items if i not in chosen), None)
            if item is None:
                queues.remove(queue)
            elif len(chosen) < count:
                chosen[item] = why
    return [(i, why) for why, _ in lists for i, reason in chosen.items() if reason == why]


class Gallery:
    """Draws the cards; opens the input again, and says so where that is not possible."""

    def __init__(self, given: Predicted, known: Truth | None, scores: Scores | None) -> None:
        self.given, self.known, self.scores = given, known, scores
        self.source, self.trouble = open_input(given)
        self.index = {} if self.source is None else {name: i for i, name in enumerate(self.source.names)}

    def card(self, i: int, why: str) -> Card:
        given, known = self.given, self.known
        mask = None if given.masks is None else read_mrc(given.masks[i])
        density = None if given.densities is None else read_mrc(given.densities[i])
        true_mask = None if known is None else np.asarray(known.store["mask"][int(known.row[i])]) > 0
        has_density = known is not None and "density" in known.store
        true_density = np.asarray(known.store["density"][int(known.row[i])], np.float32) if known is not None and has_density else None
        like = density or mask
        subtomogram = self.read_input(i, like)
        panels: list[Panel] = []
        true_outline = [] if true_mask is None else [("true", true_mask)]
        outlines = [] if mask is None else [*([] if true_mask is None else [("rim", true_mask)]), ("predicted", mask.data > 0.5)]
        if subtomogram is not None:
            smooth = low_pass(subtomogram, eye_resolution(subtomogram.voxel_size), edge=1.0).data
            panels += [
                draw_panel("Input", subtomogram.data, scale=subtomogram.voxel_size),
                draw_panel(f"Low-passed, {eye_resolution(subtomogram.voxel_size):.0f} Å", smooth),
                *([draw_panel("Mask", smooth, outlines=outlines)] if outlines else []),
            ]
        elif mask is not None:
            panels.append(draw_panel("Mask", mask.data * 0, (0, 1), outlines, mask.voxel_size))
        limits = density_limits(density, true_density)
        if density is not None:
            panels.append(draw_panel("Recovered density", density.data, limits))
        if true_density is not None:
            panels.append(draw_panel("True density", true_density, limits, true_outline))
        called = "" if given.label is None else given.class_names[given.label[i]]
        right = None if known is None or given.label is None else bool(known.label[i] == given.label[i])
        return Card(given.names[i], why, called, right, self.facts(i), panels)

    def read_input(self, i: int, like: Volume | None) -> Volume | None:
        """The particle's subtomogram, protein bright; None where it cannot be read any more or has another shape."""
        if self.source is None or self.given.names[i] not in self.index:
            return None
        try:
            volume = self.source.read(self.index[self.given.names[i]])
        except InputError as error:
            self.trouble = self.trouble or str(error)
            return None
        if like is not None and volume.shape != like.shape:
            self.trouble = self.trouble or f"the box of {self.given.names[i]} is now {volume.shape}, but was {like.shape} when it was predicted"
            return None
        return volume.with_data(np.asarray(self.given.sign * volume.data, np.float32))

    def facts(self, i: int) -> list[tuple[str, str]]:
        given, known, scores = self.given, self.known, self.scores
        facts: list[tuple[str, str]] = []
        if given.label is not None and given.probability is not None and given.probabilities is not None:
            facts.append(("probability", f"{given.probability[i]:.2f}"))
            order = np.argsort(-given.probabilities[i])
            second = next((int(k) for k in order if k != given.label[i]), None)
            if second is not None and given.probabilities[i, second] >= 0.005:
                facts.append(("next best", f"{given.class_names[second]} ({given.probabilities[i, second]:.2f})"))
        if known is not None and scores is not None:
            facts.insert(0, ("truth", known.class_names[known.label[i]]))
            values = (("SNR", known.snr, ".2g"), ("IoU", scores.iou, ".2f"), ("correlation", scores.correlation, ".2f"))
            facts += [(title, format(column[i], form)) for title, column, form in values if column is not None and np.isfinite(column[i])]
        return facts


# --------------------------------------------------------------------------------------------------------------- page


def render(given: Predicted, known: Truth | None, scores: Scores | None, result: dict[str, Any], config: ReportConfig) -> str:
    """The page. Everything that comes from files is escaped by the template."""
    gallery = Gallery(given, known, scores)
    cards = [gallery.card(i, why) for i, why in choose_gallery(given, known, scores, config)]
    return render_page(
        "report.html.jinja",
        name="/".join(Path(str(manifest_entry(given.manifest, "particles", "path") or given.folder)).parts[-2:]).lstrip("/"),
        done=[word for word, part in (("classified", given.label), ("segmented", given.masks), ("recovered", given.densities)) if part is not None],
        facts=run_facts(given, known),
        settings=given.manifest.get("config") or {},
        warnings=page_warnings(given, known),
        trouble=gallery.trouble,
        headlines=headlines(given, result),
        result=to_plain(result),
        confusion=confusion_rows(known, result),
        bars=class_bars(given, known),
        plots=draw_plots(given, known, scores, result, config),
        cards=cards,
        shows_input=gallery.source is not None,
        flipped=given.sign < 0,
        definitions=metrics.DEFINITIONS,
    )


def page_warnings(given: Predicted, known: Truth | None) -> list[str]:
    contrast = manifest_entry(given.manifest, "particles", "contrast_warning")
    new_classes = None if known is None or known.is_known.all() else describe_new_classes(given, known)
    return [str(text) for text in (contrast, None if known is None else known.doubt, new_classes) if text]


def run_facts(given: Predicted, known: Truth | None) -> list[tuple[str, str]]:
    """What was run, in words; what the manifest does not say is left out."""
    particles, model = (manifest_entry(given.manifest, key) or {} for key in ("particles", "model"))
    kind, rate = particles.get("kind"), given.manifest.get("particles_per_second")
    seconds = given.manifest.get("seconds")
    command = [str(word) for word in given.manifest.get("command") or ()]
    facts = [
        ("Particles", f"{len(given):,} from {particles.get('path')}" + (f" ({KINDS.get(kind, kind)})" if kind else "")),
        ("Voxel size", f"{_angstroms(particles['voxel_size'])} Å" if particles.get("voxel_size") else ""),
        ("Contrast", f"protein {particles['contrast']} in the input" if particles.get("contrast") else ""),
        ("Model", " · ".join(_model_words(model))),
        ("Truth", "" if known is None else str(known.path)),
        ("Device", ", ".join(str(given.manifest[key]) for key in ("device", "precision") if given.manifest.get(key))),
        ("Speed", f"{rate:,.1f} particles per second" + (f", {seconds:,.1f} s in all" if seconds else "") if rate else ""),
        ("Predicted", " · ".join(str(text) for text in (given.manifest.get("created"), f"triptych {given.manifest.get('triptych')}") if text)),
        ("Command", shlex.join([Path(command[0]).name, *command[1:]]) if command else ""),
    ]
    return [(title, text) for title, text in facts if text]


def _angstroms(value: Any) -> str:
    """One voxel size, or several where the input has several."""
    return ", ".join(f"{size:g}" for size in (value if isinstance(value, list) else [value]))


def _model_words(model: dict[str, Any]) -> Iterator[str]:
    if model.get("name"):
        yield str(model["name"])
    if model.get("class_names"):
        yield f"{len(model['class_names'])} classes"
    if model.get("box_size") and model.get("voxel_size"):
        yield f"box {model['box_size']}³ at {model['voxel_size']:g} Å"
    if model.get("sha256"):
        yield f"weights {str(model['sha256'])[:12]}"


def headlines(given: Predicted, result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Title, value and remark of the cards on top."""
    if "accuracy" in result:
        return _truth_headlines(result)
    cards = [("Particles", f"{len(given):,}", "")]
    predicted = result["predicted"]
    if predicted is not None:
        name, count = max(predicted["counts"].items(), key=lambda item: item[1])
        occurring = sum(n > 0 for n in predicted["counts"].values())
        remark = f"{100 * count / len(given):.0f} % of the particles; " + ("the only class" if occurring == 1 else f"{occurring} classes occur")
        cards.append(("Most frequent class", name, remark))
        cards.append(("Median probability", f"{predicted['median_probability']:.2f}", "of the predicted class"))
        if predicted["none_share"] is not None:
            cards.append((f"Called \u201c{NONE_CLASS}\u201d", f"{100 * predicted['none_share']:.1f} %", "no particle of a known class"))
    return cards


def _truth_headlines(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    low, high = summary["accuracy_interval"]
    kept, in_mask = f"{summary['particles_not_none']:,} particles", summary["mean_density_correlation_in_mask"]
    cards = [
        ("Accuracy", summary["accuracy"], f"95 % interval {low:.3f} – {high:.3f}; {summary['particles_of_known_classes']:,} particles"),
        ("Mean IoU", summary["mean_iou"], f"median {summary['median_iou']:.3f}; {kept}"),
        ("Density correlation", summary["mean_density_correlation"], f"mean of {kept}; {in_mask:.3f} within the mask"),
        ("Calibration error", summary["expected_calibration_error"], "expected; 0 is ideal"),
    ]
    return [(title, f"{value:.3f}", remark) for title, value, remark in cards if np.isfinite(value)]


def confusion_rows(known: Truth | None, result: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of the true classes that occur, columns of the classes that occur or were called; each cell count and share of its row."""
    if known is None or "confusion_matrix" not in result:
        return None
    counts: IntArray = result["confusion_matrix"]
    rows = np.flatnonzero(counts.sum(axis=1))
    columns = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    return {
        "columns": [known.class_names[k] for k in columns],
        "rows": [
            {
                "name": known.class_names[r],
                "count": int(counts[r].sum()),
                "cells": [{"count": int(counts[r, c]), "share": float(counts[r, c] / counts[r].sum()), "right": bool(r == c)} for c in columns],
            }
            for r in rows
        ],
    }


def class_bars(given: Predicted, known: Truth | None) -> list[dict[str, Any]]:
    """Classes that occur, the most frequent first, with counts and median probability."""
    if given.label is None or given.probability is None:
        return []
    names = given.class_names if known is None else known.class_names
    predicted = np.bincount(given.label, minlength=len(names))
    true = np.zeros_like(predicted) if known is None else np.bincount(known.label, minlength=len(names))
    largest = max(int(predicted.max()), int(true.max()))
    return [
        {
            "name": names[k],
            "count": int(predicted[k]),
            "width": 100 * float(predicted[k]) / largest,
            "true": None if known is None else int(true[k]),
            "true_width": None if known is None else 100 * float(true[k]) / largest,
            "share": float(predicted[k]) / len(given),
            "median": metrics.median(given.probability[given.label == k]),
        }
        for k in np.argsort(-predicted, kind="stable")
        if predicted[k] or true[k]
    ]


def draw_plots(given: Predicted, known: Truth | None, scores: Scores | None, result: dict[str, Any], config: ReportConfig) -> dict[str, str]:
    """SVG of each figure that there are data for."""
    plots: dict[str, str] = {}
    if given.label is not None and given.probability is not None:
        plots["probabilities"] = figures.draw_probabilities(given.probability, None if known is None else given.label == known.label)
    plots["embedding"] = draw_embedding(given, np.random.default_rng(config.seed))
    if known is None or scores is None:
        return plots
    if "reliability" in result:
        plots["reliability"] = figures.draw_reliability(metrics.ReliabilityCurve(**result["reliability"]))
    kept = np.array([known.class_names[k] != NONE_CLASS for k in known.label])
    panels = [(title, values[kept]) for title, values in (("IoU", scores.iou), ("Density correlation", scores.correlation)) if values is not None]
    if panels and kept.any():
        plots["distributions"] = figures.draw_distributions(panels)
        present, index = np.unique(known.label[kept], return_inverse=True)
        plots["by_class"] = figures.draw_by_class([known.class_names[k] for k in present], index, panels)
    if scores.frequency is not None and scores.shell_correlation is not None:
        plots["shells"] = figures.draw_shell_correlation(scores.frequency, scores.shell_correlation)
    trends = snr_trends(given, known, scores)
    if trends:
        plots["snr"] = figures.draw_trends(trends, "SNR")
    return plots


def draw_embedding(given: Predicted, rng: np.random.Generator) -> str:
    rows = np.arange(len(given)) if len(given) <= MAP_POINTS else np.sort(rng.choice(len(given), MAP_POINTS, replace=False))
    points, shares = metrics.principal_components(np.asarray(given.embedding[rows], np.float64))
    return figures.draw_embedding(points, None if given.label is None else given.label[rows], given.class_names, shares)
