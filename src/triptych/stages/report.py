"""Stage `report`: a prediction folder (and the truth, where it is known) -> metrics.json and report.html; `judge`: arrays -> the same figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triptych.config import ReportConfig
from triptych.errors import InputError
from triptych.io.files import to_plain, write_json
from triptych.io.manifest import write_manifest
from triptych.io.other_predictions import FILES, gather_predictions, is_of_other_program, read_other_predictions
from triptych.io.output_names import MANIFEST, METRICS, PAGE, PARTICLES
from triptych.io.outputs import output_folder
from triptych.io.predictions import Predicted, read_predictions
from triptych.io.store import particle_name
from triptych.judging.report_metrics import collect_metrics, describe_new_classes, particle_table
from triptych.judging.scoring import match_truth, score_particles
from triptych.pages.report_page import render
from triptych.parallel import Progress

logger = logging.getLogger(__name__)


def report(
    predictions: Path | str,
    out: Path | str,
    truth: Path | str | None = None,
    config: ReportConfig | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Judge and show what `predict` wrote, or what `orient` made of it.

    Parameters
    ----------
    predictions : folder that `predict` wrote; or `orient`, whose structures in their poses are then judged as masks and densities; or, with
        truth, one of another program's predictions (predictions.csv, masks.npy, densities.npy: see `triptych.io.other_predictions`)
    out : new folder; gets metrics.json, report.html, manifest.json and, with truth, particles.csv
    truth : dataset store (Zarr) that the predictions were made from
    config : settings; default: all defaults
    on_progress : called with the number of particles judged and their total

    Returns
    -------
    The folder `out`.
    """
    config, predictions, truth = config or ReportConfig(), Path(predictions), None if truth is None else Path(truth)
    given = _read_any(predictions, truth)
    matched = None if truth is None else match_truth(given, truth)
    if matched is not None and not matched.is_known.all():
        logger.warning(describe_new_classes(given, matched))
    with output_folder(out) as part:
        scores = None if matched is None else score_particles(given, matched, on_progress or (lambda done, total: None))
        figures_of_merit = collect_metrics(given, matched, scores)
        write_json(part / METRICS, figures_of_merit)
        if scores is not None:
            particle_table(given, matched, scores).to_csv(part / "particles.csv", index=False, float_format="%.6g")
        (part / PAGE).write_text(render(given, matched, scores, figures_of_merit, config), encoding="utf-8")
        read = [given.folder / name for name in (PARTICLES, MANIFEST, *FILES)]
        inputs = [*(path for path in read if path.is_file()), *([] if truth is None else [truth])]
        write_manifest(part, "report", config, inputs, config.seed, arguments={"predictions": predictions, "truth": truth})
    return Path(out)


def _read_any(folder: Path, truth: Path | None) -> Predicted:
    if not is_of_other_program(folder):
        return read_predictions(folder, oriented=True)
    if truth is None:
        raise InputError(f"{folder} holds another program's predictions, which are only compared with the truth: give the store (--truth)")
    return read_other_predictions(folder, truth)


def judge(
    truth: Path | str,
    rows: ArrayLike | None = None,
    *,
    classes: Sequence[str] | None = None,
    probability: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    masks: NDArray[Any] | None = None,
    densities: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """The figures that `report` writes into metrics.json, of any program's output for particles of a store.

    Parameters
    ----------
    truth : dataset store (Zarr)
    rows : (n,), those of the store that were predicted; default: all
    classes : n names of classes; default: the most probable ones
    probability : (n,), of the class that was named; default: from `probabilities`
    probabilities : (n, k), in the order of `class_names`
    class_names : k names of classes; default: the store's, and others that occur in `classes`
    masks : (n, nz, ny, nx), probabilities, of which those above 0.5 count as within, or 0 and 1
    densities : (n, nz, ny, nx), in any unit: correlations are compared

    Returns
    -------
    What metrics.json holds; None where something is not defined. `triptych.judging.metrics.DEFINITIONS` has the words.
    """
    path = Path(truth)
    names = None if rows is None else [particle_name(int(row)) for row in np.asarray(rows)]
    given = gather_predictions(path, names, classes, probability, probabilities, class_names, masks, densities)
    matched = match_truth(given, path)
    figures: dict[str, Any] = to_plain(collect_metrics(given, matched, score_particles(given, matched, lambda done, total: None)))
    return figures
