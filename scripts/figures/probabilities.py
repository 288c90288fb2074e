"""docs/benchmarks.md: whether probabilities are right, with a temperature and with class shares that are estimated."""

from __future__ import annotations

import statistics

from figures.markdown import table
from figures.results import NO_RESULTS, Content, find, source
from figures.seeds import SNRS, about, picture, read_runs, spread, still_to_run, with_places


def calibration() -> str:
    """Calibration error before and after the temperature."""
    runs = read_runs("calibration", ("all_long",))
    header = ["SNR", "accuracy", "ECE before", "ECE after", "temperature that this SNR asks for"]
    rows = []
    for snr in ("1", *SNRS, "0.01") if runs["all_long"] else ():
        tests = [run["tests"][snr] for run in runs["all_long"]]
        errors = [spread([test[when]["expected_calibration_error"] for test in tests]) for when in ("before", "after")]
        rows.append([snr, spread([test["accuracy"] for test in tests]), *errors, spread([test["best_temperature"] for test in tests], ".2f")])
    fitted = f" Temperature of a usual particle {spread([run['temperature'] for run in runs['all_long']], '.2f')}." if runs["all_long"] else ""
    return f"{with_places(rows, header, runs)}{about(runs)}{fitted}{picture('calibration')}{still_to_run('calibration', runs)}"


def temperatures() -> str:
    """Calibration error of the shipped model, with one temperature for all particles and with one of each."""
    if not (content := find("temperature")):
        return NO_RESULTS
    kinds = {"none": "ECE without a temperature", "one": "with one for all", "of each": "with one of each particle"}
    header = ["test", "particles", "accuracy", *kinds.values()]
    rows = []
    for name, test in content["tests"].items():
        errors = [f"{test[kind]['calibration_error']:.3f}" for kind in kinds]
        rows.append([name, f"{test['particles']:,}", f"{test['one']['accuracy']:.3f}", *errors])
    one, each = content["temperatures"]["one"], content["temperatures"]["of each"]
    rule = f"{each['value']:.2f} x (spread of its logits / {each['typical']:.2f})<sup>{each['exponent']:.2f}</sup>"
    return f"{table(header, rows)}\n\nOne for all: {one['value']:.2f}; of each: {rule}.\n\n{source(content)}"


SHOWN = "100"
SCAN = "Cross-entropy, the mean over kinds and SNRs, where the training data count for so many particles of an average class (triptych takes 1):"


def shares() -> str:
    """Names of the particles of mixtures, with class shares as in the training data, estimated, and true."""
    if not (content := find("shares")):
        return NO_RESULTS
    header = ["SNR", "mixture", "accuracy", "shares estimated", "true shares", "ECE", "shares estimated", "true shares"]
    rows = []
    for snr, kinds in content["tests"].items():
        for kind, counts in kinds.items():
            ways = counts[SHOWN]
            figures = (f"{ways[way][key]:.3f}" for key in ("accuracy", "calibration_error") for way in ("trained", "estimated", "true"))
            rows.append([snr, kind, *figures])
    how = f"Mixtures of {SHOWN} particles, {content['draws']} of each kind; those of other sizes stand in the result file."
    return f"{table(header, rows)}\n\n{how}\n\n{SCAN}\n\n{scan_of_priors(content)}\n\n{source(content)}"


def scan_of_priors(content: Content) -> str:
    """Cross-entropy against the weight of the training data, for mixtures of every size."""
    priors = [f"{prior:g}" for prior in content["priors"]]
    ways = ("trained", *(f"prior {prior}" for prior in priors), "true")
    mixtures = [counts for kinds in content["tests"].values() for counts in kinds.values()]
    rows = [[count, *(f"{statistics.mean(counts[count][way]['cross_entropy'] for counts in mixtures):.3f}" for way in ways)] for count in mixtures[0]]
    return table(["particles", "not estimated", *priors, "true shares"], rows)


TABLES = (calibration, temperatures, shares)
