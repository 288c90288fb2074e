"""Stage `report`: a prediction folder (and the truth, where it is known) -> metrics.json and report.html."""

from __future__ import annotations

import logging
from pathlib import Path

from triptych.config import ReportConfig
from triptych.io.manifest import output_folder, write_json, write_manifest
from triptych.io.predictions import read_predictions
from triptych.report_metrics import collect_metrics, describe_new_classes, particle_table
from triptych.report_page import render
from triptych.scoring import Progress, match_truth, score_particles

log = logging.getLogger(__name__)


def report(
    predictions: Path,
    out: Path,
    truth: Path | None = None,
    config: ReportConfig | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Judge and show what `predict` wrote, or what `orient` made of it.

    Parameters
    ----------
    predictions : folder that `predict` wrote; or `orient`, whose structures in their poses are then judged as masks and densities
    out : new folder; gets metrics.json, report.html, manifest.json and, with truth, particles.csv
    truth : dataset store (Zarr) that the predictions were made from
    config : settings; default: all defaults
    on_progress : called with the number of particles judged and their total

    Returns
    -------
    The folder `out`.
    """
    config = config or ReportConfig()
    given = read_predictions(Path(predictions), oriented=True)
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
