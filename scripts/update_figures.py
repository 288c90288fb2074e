"""Put the figures of benchmarks/results/ into the pages that show them, between their markers.

    python scripts/update_figures.py [--check]

No figure of a page is written by hand: each stands between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``, and NAME is a
function below. With --check nothing is written, and a page that differs from the result files is an error.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling_costs import costs_table

from triptych.io.store import BOXES, PLACES, ROWS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CARD = "src/triptych/data/models/base/README.md"
DOCS = ("real_data", "simulation", "picking", "benchmarks", "discovery", "orienting", "reliability", "scaling", "dataset")
PAGES = tuple(ROOT / name for name in ("README.md", *(f"docs/{name}.md" for name in DOCS), CARD))
BLOCK = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end of figures -->", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(name: str, content: dict[str, Any]) -> str:
    return f"(`benchmarks/results/{name}.json`: `{content['command']}`, triptych {content['triptych']}, {content['device']}, seed {content['seed']})"


def demo() -> str:
    """The table with which the demo ends."""
    content = read("demo")
    names = {"accuracy": "accuracy", "mean_iou": "mean IoU of the masks", "mean_density_correlation": "mean density correlation"}
    rows = [[text, f"{content[key]:.3f}"] for key, text in names.items()]
    scale = f"{content['particles']} particles, {content['classes']} classes, "
    scale += f"SNR {content['snr']:g}, averaged over half turns, {content['seconds']:.0f} s in all"
    return f"{table(['measure', 'value'], rows)}\n\n{scale} {source('demo', content)}"


def simulated() -> str:
    """The shipped model on fresh simulated particles, a row per test; and where `orient` looks at them again."""
    content, oriented = read("shipped_model"), read("orient")
    keys = ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    tests = dict(content["tests"])
    for snr, test in oriented["tests"].items():
        tests[f"all, SNR {snr}, then `orient`"] = {"particles": test["particles"], **test["rivals_tried"]["all"]}
    rows = [[name, str(test["particles"]), *(f"{test[key]:.3f}" for key in keys)] for name, test in tests.items()]
    sources = f"{source('shipped_model', content)}\n{source('orient', oriented)}"
    return f"{table(['test', 'particles', 'accuracy', 'IoU', 'correlation', 'ECE'], rows)}\n\n{sources}"


def goals() -> str:
    """What was asked, and what the network reaches by itself, and with the structures that `orient` tries."""
    simulated, real, mixture, oriented = read("shipped_model")["tests"], read("real_ribosomes"), read("discovery_0.1"), read("orient")["tests"]
    measures = {"accuracy": ("accuracy", True), "IoU": ("mean_iou", True), "correlation": ("mean_density_correlation", True)}
    measures["ECE"] = ("expected_calibration_error", False)
    goals: list[tuple[str, float, float | None, float | None, bool]] = []
    for snr, least in (("0.1", (0.97, 0.85, 0.95, 0.02)), ("0.03", (0.90, 0.75, 0.88, 0.02))):
        for (name, (key, more)), goal in zip(measures.items(), least, strict=True):
            then = oriented[snr]["rivals_tried"]["all"][key] if snr in oriented else None
            goals.append((f"all, SNR {snr}: {name}", goal, simulated[f"all, SNR {snr}"][key], then, more))
    goals.append(("real ribosomes called a ribosome", 0.95, real["real"]["share_called_ribosome"], None, True))
    estimated = {name: real[key]["estimated_shares"] for name, key in (("", "real"), (", half turns", "real_half_turns"))}
    goals += [(f"the same, class shares estimated{name}", 0.95, found["share_called_ribosome"], None, True) for name, found in estimated.items()]
    controls = [control for ways in (real, real["real_half_turns"]) for control in ways["controls"].values()]
    most = max(way["share_called_ribosome"] for control in controls for way in (control, control["estimated_shares"]))
    goals.append(("controls called a ribosome, at most, in any of these ways", 0.0, most, None, False))
    goals.append(("real ribosomes: correlation of the recovered density", 0.7, real["real"]["correlation_recovered"]["own_pose"], None, True))
    goals.append(("AUROC of known against new structures, SNR 0.1", 0.95, mixture["novelty"]["auroc"], mixture["second_opinion"]["auroc"], True))
    goals.append(("adjusted Rand index of the groups of new structures", 0.9, None, mixture["groups"]["ari_of_new_called_unknown"], True))
    rows = []
    for what, goal, *reached, more in goals:
        met = ["–" if found is None else "yes" if math.isclose(found, goal) or (found > goal) == more else "no" for found in reached]
        shown = ["–" if found is None else f"{found:.3f}" for found in reached]
        rows.append([what, f"{goal:.2f}", *(word for cell in zip(shown, met, strict=True) for word in cell)])
    return table(["what", "asked", "`predict`", "met", "then `orient`", "met"], rows)


def classes() -> str:
    """Per class at SNR 0.1, all structures."""
    content = read("shipped_model")
    test = content["tests"]["all, SNR 0.1"]
    keys = ("recall", "precision", "mean_iou", "mean_density_correlation")
    shown = [
        [name, str(row["particles"]), *("–" if row[key] is None else f"{row[key]:.2f}" for key in keys)] for name, row in test["classes"].items()
    ]
    return f"{table(['class', 'particles', 'recall', 'precision', 'IoU', 'correlation'], shown)}\n\n{source('shipped_model', content)}"


def real() -> str:
    """The real ribosomes and their controls."""
    content = read("real_ribosomes")
    tests = {
        "real": "the 20 particles",
        "real_half_turns": "the same, averaged over half turns",
        "real_mirrored": "the same, mirrored, which gives them the right hand",
        "real_not_deconvolved": "the same without CTF deconvolution",
        "real_from_tilt_images": "the same, reconstructed by triptych from their tilt images",
    }
    rows = [[text, *_columns(content[key])] for key, text in tests.items() if content.get(key)]
    rows += [[f"control: {name}", *_columns(figures)] for name, figures in content["controls"].items()]
    header = ["input", "called a ribosome", "called 70S", "mean p(ribosome)", "mean p(none)", "unknown"]
    header += ["shares estimated: a ribosome", "70S", "mean p(ribosome)", "unknown"]
    together = content["one_list"]
    words = f"{together['share_called_ribosome']:.2f} of them and {together['share_of_controls_called_ribosome']:.2f} of the controls"
    last = f"The 20 and all controls in one list, shares estimated: {words} are called a ribosome."
    return f"{table(header, rows)}\n\n{last}\n\n{source('real_ribosomes', content)}"


def _columns(figures: dict[str, Any]) -> list[str]:
    keys = ("share_called_ribosome", "share_called_70s", "mean_probability_ribosome", "mean_probability_none", "share_unknown")
    estimated = (key for key in keys if key != "mean_probability_none")
    return [*(f"{figures[key]:.2f}" for key in keys), *(f"{figures['estimated_shares'][key]:.2f}" for key in estimated)]


def recovered() -> str:
    """Correlation of recovered densities with the placed reference."""
    content = read("real_ribosomes")
    entries = {
        "the particles themselves": content["real"]["correlation_input"],
        "recovered density": content["real"]["correlation_recovered"],
        "recovered density, of mirrored particles": content["real_mirrored"]["correlation_recovered"],
        "recovered density, without CTF deconvolution": content["real_not_deconvolved"]["correlation_recovered"],
    }
    rows = [[text, f"{e['own_pose']:.2f} ± {e['own_pose_sd']:.2f}", f"{e['other_poses']:.2f}"] for text, e in entries.items()]
    return f"{table(['correlation with the averaged density', 'placed in own pose', 'in other poses'], rows)}\n\n{source('real_ribosomes', content)}"


def hand() -> str:
    """Real ribosomes beside the 70S ribosome and its mirror image."""
    content = read("real_hand")
    rows = []
    for name, item in content["densities"].items():
        difference = f"{item['correlation'] - item['mirror_correlation']:+.3f}"
        difference += f" ± {item['difference_error']:.3f}" if "difference_error" in item else ""
        rows.append([name, f"{item['resolution']:.0f} Å", f"{item['correlation']:.3f}", f"{item['mirror_correlation']:.3f}", difference])
    header = ["density", "compared to", "correlation with the 70S ribosome", "with its mirror image", "difference"]
    second = []
    for name, ways in content["told"].items():
        for way, found in ways.items():
            mirrored = ", mirrored" if way == "mirrored" else ""
            fits = f"{found['better']} of {found['particles']}"
            second.append([name + mirrored, fits, f"{found['score']:+.1f}", found["verdict"].split(":")[0]])
    check = table(["particles", "fit the structure better", "standard errors", "hand, says `orient`"], second)
    return f"{table(header, rows)}\n\n{check}\n\n{source('real_hand', content)}"


POSES = ["median error", "within 20°", "FSC 0.5 of the average with the averaged density"]


def pose_figures(way: dict[str, float]) -> list[str]:
    return [f"{way['median_angular_error']:.0f}°", f"{100 * way['share_within_20_degrees']:.0f} %", f"{way['resolution']:.0f} Å"]


def poses() -> str:
    """Poses of the real ribosomes, found in several ways."""
    content = read("real_poses")
    rows = []
    for name, way in content["ways"].items():
        reference, _, through = name.partition(", ")
        rows.append([reference, through or "–", *pose_figures(way)])
    order = content["order_of_the_subtomograms"]
    text = (
        f"Of the poses found by the subtomograms the surest half are right in {100 * order['about_right_of_the_surest_half']:.0f} %, the others in "
        f"{100 * order['about_right_of_the_others']:.0f} % (within 20°). AUROC of the pose probability, right poses against wrong ones: "
        f"{order['auroc_of_the_probability']:.2f}; of the score: {order['auroc_of_the_score']:.2f}; mean probability {order['mean_probability']:.2f}."
    )
    return f"{table(['reference', 'aligned through', *POSES], rows)}\n\n{text}\n\n{source('real_poses', content)}"


def simulator() -> str:
    """Speed and memory of the simulator."""
    content = read("simulator")
    names = {
        "tomogram": "a tomogram of 512 x 512 x 200 voxels in memory",
        "tomogram_files": "the same, written with labels, densities and tables",
        "subtomograms": "subtomograms from such tomograms, written",
        "loader": "training examples from one loader process",
        "training": "training, forward and backward, with its loader",
    }
    rows = []
    for key, text in names.items():
        figures = content[key]
        particles = f"{figures['particles']:,.0f}" if "particles" in figures else "–"
        seconds = f"{figures['seconds']:.1f}" if "seconds" in figures else "–"
        rate = f"{figures['particles_per_second']:,.0f}" if "particles_per_second" in figures else "–"
        rows.append([text, particles, seconds, rate, f"{figures['peak_gb']:.1f}"])
    return f"{table(['what', 'particles', 'seconds', 'particles/s', 'peak GB'], rows)}\n\n{content['cores']} cores {source('simulator', content)}"


def spectra() -> str:
    """Simulated beside real ribosomes."""
    content = read("real_spectra")
    rows = []
    for name in ("matched", "randomised"):
        figures = content[f"real_against_{name}"]
        numbers = [f"{figures[kind]['rms_difference_log10']:.2f}" for kind in ("radial", "angular")]
        numbers.append(f"{figures['grey_values']['kolmogorov_smirnov']:.3f}")
        numbers += [f"{figures[kind]['real_within_range']:.2f}" for kind in ("radial", "angular")]
        rows.append([f"{name} ({content['particles'][name]})", *numbers])
    header = ["simulated set", "radial: rms of log10", "angular: rms of log10", "grey values: KS distance", "radial: in range", "angular: in range"]
    clean = content["correlation_with_clean_density"]
    second = [[name, f"{clean[name]['whole']:.2f}", f"{clean[name]['300_to_40']:.2f}"] for name in ("real", "matched", "randomised")]
    seen = table(["correlation with the clean density", "whole box", "300-40 Å"], second)
    return f"{table(header, rows)}\n\n{seen}\n\n{source('real_spectra', content)}"


SNRS = ("0.3", "0.1", "0.03")
SEEDS = (0, 1, 2)
MEASURES = {"accuracy": "accuracy", "mean_iou": "IoU", "mean_density_correlation": "correlation"}
AT_SNR = [f"{text} at SNR 0.3 / 0.1 / 0.03" for text in MEASURES.values()]
Runs = dict[str, list[dict[str, Any]]]


def read_runs(folder: str, cells: tuple[str, ...]) -> Runs:
    """The result files of each cell of a table, one per seed; none where it is still to be run."""
    return {cell: [json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob(f"{cell}_[0-9]*.json"))] for cell in cells}


def spread(values: list[float | None], form: str = ".3f") -> str:
    """Mean over the seeds, and their standard deviation."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    deviation = f" ± {statistics.stdev(numbers):{form}}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):{form}}{deviation}"


def over_snr(runs: list[dict[str, Any]]) -> list[str]:
    """A text per measure: means at each SNR, and the largest standard deviation over the seeds."""
    texts = []
    for key in MEASURES:
        columns = [[run["tests"][snr][key] for run in runs] for snr in SNRS]
        if None in columns[0]:
            texts.append("–")
            continue
        largest = f" (± {max(map(statistics.stdev, columns)):.3f})" if len(runs) > 1 else ""
        texts.append(" / ".join(f"{statistics.mean(column):.3f}" for column in columns) + largest)
    return texts


def still_to_run(script: str, size: str, folder: str, cells: Runs, once: tuple[str, ...] = ()) -> str:
    """The commands of the cells that have no result file; those of `once` have no seed."""
    lines = []
    for seed in SEEDS:
        missing = [cell for cell in cells if not (RESULTS / folder / f"{cell}_{seed}.json").exists() and not (seed and cell in once)]
        if missing:
            lines.append(f"    python benchmarks/{script}.py work_{size} --size {size} --seeds {seed} --cells {' '.join(missing)}")
    return "\n\nStill to run:\n\n" + "\n".join(lines) if lines else ""


def count_seeds(runs: Runs) -> str:
    """How many seeds the cells of a table have that were run: "3 seeds", or "1 to 3 seeds"."""
    counts = {len(items) for items in runs.values() if items}
    least = f"{min(counts)} to " if len(counts) > 1 else ""
    return f"{least}{max(counts)} seed{'s' * (max(counts) > 1)}"


def about(runs: Runs) -> str:
    """Where the figures of a table come from."""
    found = [run for items in runs.values() for run in items]
    if not found:
        return "No results yet."
    counts = [f"{found[0][key]:,} {key.replace('_', ' ')}" for key in ("particles", "test_particles") if key in found[0]]
    seeds = count_seeds(runs)
    devices = ", ".join(sorted({run["device"] for run in found} - {"CPU"}) or ["CPU"])  # where there is no network, no threads are told
    return f"{', '.join(counts)} at each SNR, {seeds} (±: standard deviation), triptych {found[0]['triptych']}, {devices}."


def with_places(rows: list[list[str]], header: list[str], runs: Runs) -> str:
    """The table, with a row for each cell that is still to be run; nothing as long as all are."""
    full = [[*row, *["–"] * (len(header) - len(row))] for row in rows]
    return f"{table(header, full)}\n\n" if any(runs.values()) else ""


MULTITASK = {
    "class": "class",
    "mask": "mask",
    "density": "density",
    "all": "all three",
    "class_long": "class, arithmetic of all three",
    "class_mask": "class, mask",
    "class_density": "class, density",
    "mask_density": "mask, density",
    "all_uncertainty": "all three, losses weighted by uncertainty",
    "all_gradient": "all three, gradients equalised",
    "all_wide": "all three, 1.5 x the channels",
}


def multitask(size: str = "cpu") -> str:
    """Tasks together and apart."""
    folder = "multitask" if size == "cpu" else f"{size}/multitask"
    runs = read_runs(folder, tuple(MULTITASK))
    header = ["heads", "samples", "MMACs per particle", *AT_SNR]
    rows = []
    for cell, text in MULTITASK.items():
        if not runs[cell]:
            rows.append([text, "to run"])
            continue
        first = runs[cell][0]
        rows.append([text, f"{first['samples']:,}", f"{first['macs_per_particle'] / 1e6:,.0f}", *over_snr(runs[cell])])
    gained = gains_by_seed(runs)
    return f"{with_places(rows, header, runs)}{gained}{about(runs)}{picture('multitask', size)}{still_to_run('multitask', size, folder, runs)}"


def gains_by_seed(runs: Runs) -> str:
    """What all three tasks together gain over each alone, from networks of the same seed, which saw the same samples in the same order."""
    rows = []
    for cell, key in zip(("class", "mask", "density"), MEASURES, strict=True):
        pairs = [(one, own) for one in runs["all"] for own in runs[cell] if one["seed"] == own["seed"]]
        for snr in SNRS if pairs else ():
            gained = [one["tests"][snr][key] - own["tests"][snr][key] for one, own in pairs]
            rows.append([MEASURES[key], snr, f"{statistics.mean(gained):+.3f}", " / ".join(f"{value:+.3f}" for value in gained)])
    return f"{table(['all three, less the one task alone', 'SNR', 'mean', 'of each seed'], rows)}\n\n" if rows else ""


def multitask_gpu() -> str:
    return multitask("gpu")


PUBLISHED = {
    "dsrf3d": "DSRF3D, equal samples",
    "ssn3d_ed_equal_arithmetic": "SSN3D-ED, equal arithmetic",
    "template_matching": "template matching, true templates",
    "ssn3d_ed": "SSN3D-ED, equal samples",
    "dsrf3d_equal_arithmetic": "DSRF3D, equal arithmetic",
}


NETWORKS = {"dsrf3d": "DSRF3D", "ssn3d_ed": "SSN3D-ED for masks", "ssn3d_ed_density": "SSN3D-ED for densities"}


def published(size: str = "cpu") -> str:
    """Networks and a method of others beside ours."""
    folder = "published" if size == "cpu" else f"{size}/published"
    runs = read_runs(folder, tuple(PUBLISHED))
    ours = read_runs("multitask" if size == "cpu" else f"{size}/multitask", ("all",))
    names = {"all": "triptych, all three", **PUBLISHED}
    header = ["method", "samples", "parameters", "MMACs per particle", "particles/s", *AT_SNR]
    rows = []
    for cell, items in {**ours, **runs}.items():
        if not items:
            rows.append([names[cell], "to run"])
            continue
        first = items[0]
        size_of = [f"{first[key]:,}" if key in first else "–" for key in ("samples", "parameters")]
        macs = f"{first['macs_per_particle'] / 1e6:,.0f}" if "macs_per_particle" in first else "–"
        rate = spread([run["particles_per_second"] for run in items], ".3g").split(" ± ")[0]
        subset = f" ({first['test_particles']} particles)" if cell == "template_matching" else ""
        rows.append([names[cell] + subset, *size_of, macs, rate, *over_snr(items)])
        if cell == "template_matching":
            same = first["triptych_on_the_same_particles"]
            figures = ["–"] * 4 + over_snr([{"tests": same}]) if same else ["to run"]
            rows.append([f"triptych on the same {first['test_particles']} particles", *figures])
    to_run = still_to_run("published", size, folder, {**runs, "rates": []}, once=("template_matching", "rates"))
    matched = runs["template_matching"]
    if matched and not matched[0]["triptych_on_the_same_particles"]:
        # which looks for the model that multitask.py leaves in the folder of the work
        asked = f"--seeds 0 --cells template_matching --subset {matched[0]['test_particles']} --results FOLDER"
        to_run += f"\n    python benchmarks/multitask.py work_{size} --size {size} --seeds 0 --cells all --results FOLDER"
        to_run += f"\n    python benchmarks/published.py work_{size} --size {size} {asked}"
    return f"{with_places(rows, header, runs)}{about(runs)}{speeds(folder)}{to_run}"


def speeds(folder: str) -> str:
    """How much faster one network is than three, measured by turns in one run."""
    path = RESULTS / folder / "rates_0.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    rates = found["particles_per_second"]
    others = ", ".join(f"{name} {rates[key]:.0f}" for key, name in NETWORKS.items())
    each = ", ".join(f"{rates['triptych'] / rates[key]:.1f} ({name})" for key, name in NETWORKS.items())
    text = f"Particles per second, by turns in one run ({found['device']}): triptych, all three tasks, {rates['triptych']:.0f}; {others}."
    gain = f"{found['triptych_is_faster_by']:.1f} times as fast as all three one after another ({found['others_one_after_another']:.1f} particles/s)"
    return f"\n\n{text} So triptych is so many times as fast: {each}; and, as it does at once what these do together, {gain}."


def published_gpu() -> str:
    return published("gpu")


RECOVERY = {
    "recovered": "recovered density",
    "input": "the subtomogram itself",
    "wiener": "the subtomogram, Wiener-filtered",
    "class_true_pose": "mean of the named class, true pose",
    "class_random_pose": "mean of the named class, random pose",
}


def recovery() -> str:
    """FSC with the truth, in and out of the missing wedge."""
    runs = read_runs("recovery", ("all",))
    header = ["density", "SNR", "correlation", "mean FSC, measured", "mean FSC, missing wedge", "FSC 0.5 at, measured", "FSC 0.5 at, missing wedge"]
    rows = []
    for key, text in RECOVERY.items():
        for snr in SNRS if runs["all"] else ():
            parts = [run["tests"][snr][key] for run in runs["all"]]
            fsc = [spread([part[where]["mean_fsc"] for part in parts]) for where in ("measured", "missing")]
            half = [spread([part[where]["half_at_angstrom"] for part in parts], ".0f") for where in ("measured", "missing")]
            rows.append([text, snr, spread([part["correlation"] for part in parts]), *fsc, *(f"{h} Å" if h != "–" else h for h in half)])
    return f"{with_places(rows, header, runs)}{about(runs)}{picture('recovery')}{still_to_run('recovery', 'cpu', 'recovery', runs)}"


def calibration() -> str:
    """Calibration error before and after the temperature."""
    runs = read_runs("calibration", ("all",))
    header = ["SNR", "accuracy", "ECE before", "ECE after", "temperature that this SNR asks for"]
    rows = []
    for snr in ("1", *SNRS, "0.01") if runs["all"] else ():
        tests = [run["tests"][snr] for run in runs["all"]]
        errors = [spread([test[when]["expected_calibration_error"] for test in tests]) for when in ("before", "after")]
        rows.append([snr, spread([test["accuracy"] for test in tests]), *errors, spread([test["best_temperature"] for test in tests], ".2f")])
    fitted = f" Temperature {spread([run['temperature'] for run in runs['all']], '.2f')}." if runs["all"] else ""
    return f"{with_places(rows, header, runs)}{about(runs)}{fitted}{picture('calibration')}{still_to_run('calibration', 'cpu', 'calibration', runs)}"


def temperatures() -> str:
    """Calibration error of the shipped model, with one temperature for all particles and with one of each."""
    if not (RESULTS / "temperature.json").is_file():
        return "No results yet."
    content = read("temperature")
    kinds = {"none": "ECE without a temperature", "one": "with one for all", "of each": "with one of each particle"}
    header = ["test", "particles", "accuracy", *kinds.values()]
    rows = []
    for name, test in content["tests"].items():
        errors = [f"{test[kind]['calibration_error']:.3f}" for kind in kinds]
        rows.append([name, f"{test['particles']:,}", f"{test['one']['accuracy']:.3f}", *errors])
    one, each = content["temperatures"]["one"], content["temperatures"]["of each"]
    rule = f"{each['value']:.2f} x (spread of its logits / {each['typical']:.2f})<sup>{each['exponent']:.2f}</sup>"
    return f"{table(header, rows)}\n\nOne for all: {one['value']:.2f}; of each: {rule}.\n\n{source('temperature', content)}"


SHOWN = "100"
SCAN = "Cross-entropy, the mean over kinds and SNRs, where the training data count for so many particles of an average class (triptych takes 1):"


def shares() -> str:
    """Names of the particles of mixtures, with class shares as in the training data, estimated, and true."""
    if not (RESULTS / "shares.json").is_file():
        return "No results yet."
    content = read("shares")
    header = ["SNR", "mixture", "accuracy", "shares estimated", "true shares", "ECE", "shares estimated", "true shares"]
    rows = []
    for snr, kinds in content["tests"].items():
        for kind, counts in kinds.items():
            ways = counts[SHOWN]
            figures = (f"{ways[way][key]:.3f}" for key in ("accuracy", "calibration_error") for way in ("trained", "estimated", "true"))
            rows.append([snr, kind, *figures])
    priors = [f"prior {prior:g}" for prior in content["priors"]]
    mixtures = [counts for kinds in content["tests"].values() for counts in kinds.values()]
    second = [
        [count, *(f"{statistics.mean(counts[count][way]['cross_entropy'] for counts in mixtures):.3f}" for way in ("trained", *priors, "true"))]
        for count in mixtures[0]
    ]
    scan = table(["particles", "not estimated", *(f"{prior:g}" for prior in content["priors"]), "true shares"], second)
    how = f"Mixtures of {SHOWN} particles, {content['draws']} of each kind; those of other sizes stand in the result file."
    return f"{table(header, rows)}\n\n{how}\n\n{SCAN}\n\n{scan}\n\n{source('shares', content)}"


def orient() -> str:
    """Poses of known structures, and what masks and densities gain where the structure is put there."""
    if not (RESULTS / "orient.json").exists():
        return "No results yet."
    content = read("orient")
    ways = {
        "recovered": "by recovered densities alone",
        "rivals_tried": "as it is by default: by subtomograms too, rivals tried",
    }
    rows, second = [], []
    for snr, test in content["tests"].items():
        for key, text in ways.items():
            way = test[key]
            poses = [f"{way['median_angular_error']:.1f}°", f"{100 * way['share_within_10_degrees']:.0f} %", f"{way['median_shift_error']:.1f} Å"]
            rate = way["oriented"] / way["seconds"]
            rows.append([snr, text, f"{way['oriented']} of {test['particles']}", str(way["named_rightly"]), *poses, f"{rate:.1f}"])
        named = {"the network alone": test["network"], **{f"the structure, {text}": test[key]["all"] for key, text in ways.items()}}
        measures = ("accuracy", "expected_calibration_error", "mean_iou", "mean_density_correlation")
        second += [[snr, text, *(f"{found[key]:.3f}" for key in measures)] for text, found in named.items()]
    header = ["SNR", "pose", "oriented", "named rightly", "median error", "within 10°", "median shift", "particles/s"]
    maps = table(["SNR", "named and drawn by", "accuracy", "ECE", "IoU", "correlation"], second)
    return f"{table(rows=rows, header=header)}\n\n{maps}\n\n{source('orient', content)}"


def pose_probability() -> str:
    """Which poses are right, by their probabilities and by their scores."""
    content = read("orient")
    rows = []
    for snr, test in content["tests"].items():
        found = test["rivals_tried"]["pose_probability"]
        shares = [f"{100 * found[key]:.1f} %" for key in ("about_right", "sure", "about_right_of_the_sure", "about_right_of_the_others")]
        rows.append([snr, *shares, *(f"{found[key]:.3f}" for key in ("expected_calibration_error", "auroc", "auroc_of_the_score"))])
    header = ["SNR", "poses right", "probability 0.9 or more", "right of these", "right of the others", "ECE", "AUROC", "AUROC of the score"]
    return f"{table(header, rows)}\n\nRight: the class is, and the pose to 20° or so that the structure looks the same. {source('orient', content)}"


NOVELTY = ("near", "far", "mixed", "ribosomes")
NOVELTY_SCORES = {
    "probability": "maximum probability",
    "energy": "energy",
    "mahalanobis": "Mahalanobis distance",
    "neighbours": "10th nearest neighbour",
    "density": "density against its class",
}


def novelty() -> str:
    """Structures that were withheld: scores, and what becomes of them."""
    plain = read_runs("novelty", NOVELTY)
    contrastive = read_runs("novelty", tuple(f"{fold}_contrastive" for fold in NOVELTY if fold != "ribosomes"))
    rows, second = [], []
    for text, group in (("", plain), (", contrastive", contrastive)):
        found = [run for items in group.values() for run in items]
        for key, name in NOVELTY_SCORES.items() if found else ():
            rows.append([name + text, *(spread([run["tests"][snr]["scores"][key]["auroc"] for run in found]) for snr in SNRS)])
        for snr in SNRS if found else ():
            tests = [run["tests"][snr] for run in found]
            shares = [spread([test["share_called_unknown"][kind] for test in tests]) for kind in ("known", "withheld")]
            maps = [spread([test["maps"]["withheld"][kind] for test in tests]) for kind in ("iou", "correlation")]
            index = spread([test["groups"]["whitened"]["adjusted_rand_index"] for test in tests])
            second.append([snr + text, *shares, *maps, index])
    runs = plain | contrastive
    first_table = with_places(rows, ["score: AUROC", *(f"SNR {snr}" for snr in SNRS)], runs)
    header = ["SNR", "known called unknown", "withheld called unknown", "withheld: IoU", "withheld: correlation", "withheld: ARI of groups"]
    return f"{first_table}{with_places(second, header, runs)}{about(runs)}{still_to_run('novelty', 'cpu', 'novelty', runs)}"


def real_novel() -> str:
    """Real ribosomes, and a network that was never shown any."""
    if not (RESULTS / "real_novel.json").exists():
        return "No results yet."
    content = read("real_novel")
    rows = []
    for kind, called in content["called"].items():
        name = f"the {content['particles']} ribosomes" if kind == "real" else f"control: {kind}"
        most = ", ".join(f"{number} {word}" for word, number in list(called["classes"].items())[:3])
        rows.append([name, f"{100 * called['share_unknown']:.0f} %", f"{100 * called['share_none']:.0f} %", most])
    first = table(["input", "verdict unknown", "verdict none", "best class, of most"], rows)
    correlation = content["correlation_recovered"]
    about = [
        f"AUROC of the novelty, ribosomes against controls: {content['auroc_against_controls']:.2f}.",
        f"Recovered density and averaged density: correlation {correlation['own_pose']:.2f} in own pose, {correlation['other_poses']:.2f} in others.",
    ]
    for key, text in (("groups_of_unknown", "called unknown"), ("groups_of_all", "in all")):
        found = content[key]
        inside = f"the best of {found['groups']} groups holds {found['ribosomes_in_best']} of the {found['ribosomes']} ribosomes among them"
        about.append(f"Of {found['particles']} particles and controls {text}, {inside}, and {found['others_in_best']} controls.")
    ways = [[name, *pose_figures(way)] for name, way in content["poses_without_a_reference"].items()]
    second = table(["aligned, without a reference, through", *POSES], ways)
    return f"{first}\n\n{' '.join(about)}\n\n{second}\n\n{source('real_novel', content)}"


PICKED = {
    "f1": "location: F1",
    "precision": "precision",
    "recall": "recall",
    "f1_with_class": "location and class: F1",
    "mean_class_f1": "mean over classes",
}


def picking() -> str:
    """Particles found in whole simulated tomograms."""
    if not (RESULTS / "picking.json").exists():
        return "No results yet."
    content = read("picking")
    rows, sizes = [], []
    for snr, test in content["tests"].items():
        figures = [f"{test[key]:.2f}" for key in PICKED]
        rows.append([snr, str(test["particles"]), f"{test['threshold']:g}", *figures, f"{test['seconds']:.0f}", f"{test['peak_gb']:.1f}"])
        for name, size in test["by_size"].items():
            sizes.append([snr, name, str(size["particles"]), f"{size['located']:.2f}", f"{size['named']:.2f}"])
    header = ["SNR", "particles", "score from", *PICKED.values(), "seconds", "peak GB"]
    second = table(["SNR", "mass", "particles", "found", "found and named"], sizes)
    return f"{table(header, rows)}\n\n{second}\n\n{picked_in(content)}"


def picked_in(content: dict[str, Any]) -> str:
    """The tomograms of a result of picking.py, and where it stands."""
    shape = " x ".join(str(n) for n in content["shape"][::-1])
    return f"{shape} voxels of 10 Å, {content['tomograms']} tomogram(s) {source(content['benchmark'], content)}"


def picked_row(snr: str, way: str, figures: dict[str, Any]) -> list[str]:
    """How well one way picks."""
    seconds = f"{figures['seconds']:.0f}" if "seconds" in figures else "–"
    return [snr, way, str(figures["particles"]), *(f"{figures[key]:.2f}" for key in PICKED), seconds]


def rivals() -> str:
    """Classical ways to pick, beside ours in the same tomograms."""
    if not (RESULTS / "rivals.json").exists():
        return "No results yet."
    content = read("rivals")
    rows = []
    for snr, test in content["tests"].items():
        templates = test["rivals"]["templates"]
        some = f"of {len(templates['structures'])} structures"
        matched = f"template matching, {some}, {templates['rotations']} rotations"
        ways = {"triptych": test, "differences of Gaussians, then the classes of `predict`": test["rivals"]["dog"]}
        ways |= {f"triptych, particles {some}": templates["triptych_on_the_same_particles"], matched: templates}
        rows += [picked_row(snr, name, figures) for name, figures in ways.items()]
    return f"{table(['SNR', 'way', 'particles', *PICKED.values(), 'seconds'], rows)}\n\n{picked_in(content)}"


def second_look() -> str:
    """Picks, and the same picks named by the structures that fit them."""
    if not (RESULTS / "second_look.json").exists():
        return "No results yet."
    content = read("second_look")
    rows = []
    for snr, test in content["tests"].items():
        oriented = test["rivals"]["oriented"]
        rows.append(picked_row(snr, "pick", {**oriented["picked"], "seconds": test["seconds"]}))
        rows.append(picked_row(snr, "pick, predict, orient", {**oriented, "seconds": test["seconds"] + oriented["seconds"]}))
    dice = ", ".join(f"{test['label_dice']:.2f} at SNR {snr}" for snr, test in content["tests"].items() if "label_dice" in test)
    maps = f"Mean Dice of the classes of particles in the label maps of `pick`: {dice}.\n\n" if dice else ""
    return f"{table(['SNR', 'commands', 'particles', *PICKED.values(), 'seconds'], rows)}\n\n{maps}{picked_in(content)}"


def labelled() -> str:
    """Another group's labelled tomograms, a row for each training."""
    names = ("labelled", "labelled_again", "labelled_long", "labelled_longer", "labelled_masks", "labelled_on", "labelled_scratch")
    runs = [read(name) for name in names if (RESULTS / f"{name}.json").exists()]
    if not runs:
        return "No results yet."
    keys = ("objects", "located", "right_class", "picks")
    rows = []
    for run in runs:
        how = [f"{run['updates']:,}", f"16 + {run.get('tiles', 16)}", f"{100 * run.get('turned_share', 0):.0f} %"]
        rows.append([run["from"], *how, f"{run['mean_dice']:.3f}", *(str(run[key]) for key in keys)])
    header = ["training goes on from", "updates", "boxes + tiles of each", "turned boxes", "mean Dice"]
    header += ["objects", "found", "found and named", "picks"]
    return f"{table(header, rows)}\n\n" + "\n".join(source(run["benchmark"], run) for run in runs)


def real_tomograms() -> str:
    """What is picked in real tomograms, with the contrast that each has and with the other."""
    content = read("real_tomograms")
    rows = []
    for run in content["tomograms"].values():
        contrast = f"{run['contrast']}{'' if run['right_contrast'] else ' (wrong)'}"
        shares = (f"{100 * run['volume'][label]:.2f} %" for label in ("particle", "membrane"))
        rows.append([run["tomogram"], contrast, "yes" if run["contrast_warnings"] else "no", str(run["picks"]), str(run["unknown"]), *shares])
    header = ["tomogram", "contrast", "warned of it", "picks", "called unknown", "of the volume: particle", "membrane"]
    return f"{table(header, rows)}\n\n{source('real_tomograms', content)}"


WAYS = {
    "recovered": "recovered densities",
    "recovered_then_refined": "recovered densities, then subtomograms",
    "subtomograms": "subtomograms",
}


def alignment() -> str:
    """Poses found in three ways, with and without the structure."""
    runs = [json.loads(path.read_text()) for path in sorted((RESULTS / "alignment").glob("*.json"))]
    if not runs:
        return "No results yet."
    rows = []
    for run in sorted(runs, key=lambda run: (run["class"], -run["snr"])):
        for key, reference in (("with_the_structure", "the structure"), ("without_reference", "none")):
            for way, text in WAYS.items():
                found = run[key][way]
                share, angle, shift = found["share_within_10_degrees"], found["median_angular_error"], found["median_shift_error"]
                figures = (f"{angle:.1f}°", f"{100 * share:.0f} %", f"{shift:.1f} Å", f"{found['resolution']:.1f} Å", f"{found['seconds']:.0f}")
                rows.append([run["class"], f"{run['snr']:g}", reference, text, *figures])
    header = ["class", "SNR", "reference", "aligned through", "median error", "within 10°", "median shift", "FSC 0.5 with the structure", "seconds"]
    best = ", ".join(f"{run['class']} at {run['snr']:g}: {run['true_poses']['resolution']:.1f} Å" for run in runs)
    about = f"{runs[0]['particles']} particles of each class; averages in the true poses reach: {best}."
    return f"{table(header, rows)}\n\n{about} {source('alignment/*', runs[0])}"


def mixtures() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("discovery_*.json"))]


def strangers() -> str:
    """Which structures of a mixture are called unknown."""
    runs = mixtures()
    if not runs:
        return "No results yet."
    rows = []
    for run in runs:
        found = [run["novelty"], run.get("second_opinion", run["novelty"])]
        for name in found[0]["structures"]:
            own = [item["structures"][name] for item in found]
            aurocs = ["–" if item["auroc"] is None else f"{item['auroc']:.3f}" for item in own]
            called = [f"{100 * item['called_unknown']:.0f} %" for item in own]
            rows.append([f"{run['snr']:g}", name, "yes" if name in run["known"] else "no", *called, *aurocs])
        for text, known, key in (("all that are known", "yes", "known_called_unknown"), ("all that are not", "no", "new_called_unknown")):
            aurocs = ["–", "–"] if known == "yes" else [f"{item['auroc']:.3f}" for item in found]
            rows.append([f"{run['snr']:g}", text, known, *(f"{100 * item[key]:.0f} %" for item in found), *aurocs])
    header = ["SNR", "structure", "known to the model", "called unknown by `predict`", "and by `orient`", "AUROC of `predict`", "with `orient`"]
    return f"{table(header, rows)}\n\n" + "\n".join(source(run["benchmark"], run) for run in runs)


def averages() -> str:
    """The groups of a mixture and their averages."""
    runs = mixtures()
    if not runs:
        return "No results yet."
    rows, notes = [], []
    for run in runs:
        for row in run["averages"]:
            share = f"{row['particles']} ({100 * row['purity']:.0f} %)"
            pose = f"{row['median_angular_error']:.1f}°, {100 * row['share_within_10_degrees']:.0f} %"
            match = f"{row['matches'][0]}{'' if row['matches'][0] == row['structure'] else ' (wrong)'}"
            keys = ("half_set_resolution", "resolution", "resolution_in_true_poses", "resolution_of_all_in_true_poses")
            resolutions = ("–" if row[key] is None else f"{row[key]:.1f} Å" for key in keys)
            rows.append([f"{run['snr']:g}", row["structure"], "no" if row["new"] else "yes", share, pose, *resolutions, match])
        found, seconds = run["groups"], run["seconds"]["discover"]
        notes.append(
            f"SNR {run['snr']:g}: {found['called_unknown']} of {run['particles']} particles called unknown, {found['grouped']} of them in "
            f"{found['groups']} groups in {seconds:.0f} s; adjusted Rand index {found['ari_of_new_called_unknown']:.2f} over the new ones "
            f"called unknown, {found['ari_of_new_grouped']:.2f} over those in a group. {source(run['benchmark'], run)}"
        )
    header = ["SNR", "most are", "known", "particles (of these)", "angular error: median, within 10°"]
    header += ["half-set FSC 0.143", "FSC 0.5 with the structure", "in the true poses", "of all there are, in the true poses"]
    header += ["best match"]
    return f"{table(header, rows)}\n\n" + "\n\n".join(notes)


def learned() -> str:
    """Classes added from few particles."""
    runs = mixtures()
    if not runs:
        return "No results yet."
    rows = []
    for run in runs:
        for count in sorted({trial["examples"] for trial in run["learning"]}):
            trials = [trial for trial in run["learning"] if trial["examples"] == count]
            keys = ("new", "old", "old_before", "new_verdicts", "old_verdicts", "old_verdicts_before")
            rows.append([f"{run['snr']:g}", str(count), *(share([trial[key] for trial in trials]) for key in keys)])
    header = ["SNR", "particles of each", "best class right: new", "old", "old, before", "verdict right: new", "old", "old, before"]
    draws = len({trial["draw"] for trial in runs[0]["learning"]})
    return f"{table(header, rows)}\n\n{len(runs[0]['new'])} classes added at once, {draws} draws of the particles (±: standard deviation)."


def growth() -> str:
    """Time and memory of discover against the number of particles."""
    found = sorted((json.loads(path.read_text()) for path in (RESULTS / "growth").glob("discover_*.json")), key=lambda row: row["particles"])
    if not found:
        return "No results yet."
    keys = ("seconds_of_predict", "seconds_until_groups", "seconds")
    rows = [[f"{row['particles']:,}", str(row["groups"]), *(f"{row[key]:,.0f} s" for key in keys), f"{row['peak_gb']:.2f} GB"] for row in found]
    last = found[-1]
    header = ["particles", "groups", "predict", "discover: until the groups are found", "discover in all", "most memory held"]
    command = f"`benchmarks/results/growth/*.json`: `{last['command']}`, triptych {last['triptych']}, {last['device']}, seed {last['seed']}"
    return f"{table(header, rows)}\n\n({command})"


def share(values: list[float]) -> str:
    mean, spread = 100 * statistics.mean(values), 100 * statistics.pstdev(values)
    return f"{mean:.0f} %" if spread == 0 else f"{mean:.0f} ± {spread:.0f} %"


ABLATION = {
    "full": "nothing left out",
    "ctf": "CTF",
    "dose": "radiation damage and dose weighting",
    "misalignment": "misalignment",
    "membranes": "membranes",
    "neighbours": "neighbours and cytosol",
    "cytosol": "cytosol",
    "noise_spectrum": "spectrum of the noise (white instead)",
    "randomisation": "randomisation (every range at its middle)",
    "augmentation": "filters while loading",
    "normalised": "nothing, and the network normalises spectra",
    "normalised_augmentation": "filters while loading, and the network normalises spectra",
}


def ablation() -> str:
    """What each piece of the physics is worth."""
    runs = read_runs("ablation", tuple(ABLATION))
    header = ["left out in training", *MEASURES.values(), "real: called a ribosome", "real: mean p(ribosome)"]
    header += ["not deconvolved: called a ribosome", "controls: called a ribosome, at most"]
    rows = []
    for cell, text in ABLATION.items():
        items = runs[cell]
        if not items:
            rows.append([text, "to run"])
            continue
        figures = [spread([run["test"][key] for run in items]) for key in MEASURES]
        real = [spread([run["real"]["real"][key] for run in items], ".2f") for key in ("share_called_ribosome", "mean_probability_ribosome")]
        plain = [run["real"]["real_not_deconvolved"]["share_called_ribosome"] for run in items if "real_not_deconvolved" in run["real"]]
        worst = [max(found["share_called_ribosome"] for name, found in run["real"].items() if not name.startswith("real")) for run in items]
        rows.append([text, *figures, *real, spread(plain, ".2f") if plain else "–", spread(worst, ".2f")])
    found = [run for items in runs.values() for run in items]
    if not found:
        return "No results yet."
    seeds = count_seeds(runs)
    first = found[0]
    told = f"{first['updates']} updates, {first['particles']:,} particles, {seeds}; "
    return f"{with_places(rows, header, runs)}{told}`{first['command']}`, triptych {first['triptych']}, {first['device']}."


def kills() -> str:
    """Every stage killed at random and started again."""
    if not (RESULTS / "faults.json").exists():
        return "No results yet."
    content = read("faults")
    keys = ("kills", "matched", "kept_something", "items_lost", "steps", "steps_done_again")
    rows = [[name, *(str(figures[key]) for key in keys), f"{figures['seconds']:.1f}"] for name, figures in content["stages"].items()]
    header = ["stage", "kills", "same result", "went on from what was finished", "items lost", "steps of a run", "steps done again, in all"]
    header.append("seconds of a run")
    return f"{table(header, rows)}\n\n{source('faults', content)}{earlier_stages(content)}"


FAULTS = {"full_disk": "full disk", "read_only": "read-only output", "lost_input": "input gone", "dead_worker": "a worker process killed"}


def faults() -> str:
    """What else goes wrong: was it said, and did the same command afterwards give the same result?"""
    if not (RESULTS / "faults.json").exists():
        return "No results yet."
    content = read("faults")
    rows = []
    for name, found in content["faults"].items():
        cells = [found.get(key, {"sentence": None, "ended": None, "matched": None}) for key in FAULTS]
        rows.append([name, *map(_told, cells)])
    return f"{table(['stage', *FAULTS.values()], rows)}\n\n{source('faults', content)}{earlier_stages(content)}"


def earlier_stages(content: dict[str, Any]) -> str:
    """Where the stages come from that the last command did not name."""
    return " Stages that it does not name are from the same command without `--stages`." if "--stages" in content["command"] else ""


def _told(fault: dict[str, Any]) -> str:
    if fault["sentence"] is None:
        return "–"
    said = "no harm" if fault["ended"] == "finished" else "yes" if fault["sentence"] else "no"
    return f"{said}, {'same' if fault['matched'] else 'other'} result"


def fuzzing() -> str:
    """Spoiled files of every format."""
    if not (RESULTS / "fuzz.json").exists():
        return "No results yet."
    content = read("fuzz")
    keys = ("files", "read", "refused", "tracebacks", "hangs", "written_outside")
    tallies = content["formats"]
    rows = [[name, *(f"{tally[key]:,}" for key in keys), f"{tally['peak_mb']:.0f}"] for name, tally in tallies.items()]
    peak = max(tally["peak_mb"] for tally in tallies.values())
    rows.append(["**all**", *(f"**{sum(tally[key] for tally in tallies.values()):,}**" for key in keys), f"**{peak:.0f}**"])
    header = ["format", "files", "read", "refused with a sentence", "tracebacks and crashes", "hangs", "written outside", "peak MB"]
    limits = f"Limits: {content['memory_limit_mb']} MB more than at the start, {content['time_limit_s']:g} s for a file."
    return f"{table(header, rows)}\n\n{limits} {source('fuzz', content)}"


def arrays() -> str:
    """The arrays of a dataset store."""
    about = {name: (dtype, "n x n x n", text) for name, (dtype, text) in BOXES.items()}
    about |= {name: (dtype, " x ".join(map(str, shape)) or "–", text) for name, (dtype, shape, text) in (ROWS | PLACES).items()}
    return table(["array", "type", "shape of a row", "what it is"], [[f"`{name}`", *row] for name, row in about.items()])


def picture(name: str, size: str = "cpu") -> str:
    """A drawing of benchmarks/draw.py, where it has been drawn."""
    file = f"{name}.png" if size == "cpu" else f"{name}_{size}.png"
    return f"\n\n![{name}](images/{file})" if (ROOT / "docs" / "images" / file).exists() else ""


def scaling() -> str:
    """What a project of a thousand tomograms costs."""
    files = "simulator, spread, picking, shipped_model, memory" + (", gpu/rates" if (RESULTS / "gpu" / "rates.json").is_file() else "")
    return f"{table(*costs_table())}\n\n(`scripts/scaling_costs.py`, from `benchmarks/results/`: {files})"


def spread_out() -> str:
    """What two workers gain on two cores."""
    if not (RESULTS / "spread.json").is_file():
        return "No results yet."
    content = read("spread")
    rows = []
    for stage, ways in content["stages"].items():
        rows += [[stage, way, f"{w['seconds']:.1f} s", f"{w['speed_up']:.2f}", str(w["other_files"])] for way, w in ways.items()]
    for way, w in content["train"].items():
        losses = "–" if way == "one process" else f"losses within {w['largest_relative_difference_of_losses']:.0e}"
        rows.append(["train, float32", way, f"{w['seconds_per_update']:.2f} s per update", f"{w['speed_up']:.2f}", losses])
    return f"{table(['stage', 'way', 'time', 'speed-up', 'files that differ'], rows)}\n\n{source('spread', content)}"


def memory() -> str:
    """Peak memory against the size of the input."""
    if not (RESULTS / "memory.json").is_file():
        return "No results yet."
    content = read("memory")
    rows = []
    for network, found in (("shipped", content), ("narrow", content.get("narrow", {"predict": [], "pick": []}))):
        inputs = [(f"predict, {row['particles']:,} particles", row) for row in found["predict"]]
        inputs += [(f"pick, {' x '.join(map(str, row['shape'][::-1]))} voxels", row) for row in found["pick"]]
        rows += [[network, text, f"{row['own_gb']:.2f} GB", f"{row['peak_gb']:.2f} GB", f"{row['seconds']:,.0f} s"] for text, row in inputs]
    header = ["network", "input", "most memory of its own", "with what it keeps of mapped files", "time"]
    return f"{table(header, rows)}\n\n{source('memory', content)}"


NOTHING, LIBRARY, TRAINED = "nothing else", "a library of all classes", "what `multitask.py` left in WORK"
RIBOSOMES = "the real ribosomes"
SCRIPTS = {
    "demo": (NOTHING, "demo"),
    "shipped_model": (LIBRARY, "shipped_model"),
    "orient": (LIBRARY, "orient"),
    "multitask": (NOTHING, "multitask/*"),
    "published": (f"{NOTHING}; for triptych beside template matching, {TRAINED}", "published/*"),
    "recovery": (TRAINED, "recovery/*"),
    "calibration": (TRAINED, "calibration/*"),
    "temperature": (LIBRARY, "temperature"),
    "shares": (LIBRARY, "shares"),
    "novelty": (NOTHING, "novelty/*"),
    "ablation": (f"{NOTHING}; {RIBOSOMES} where they are at hand", "ablation/*"),
    "alignment": (NOTHING, "alignment/*"),
    "growth": (NOTHING, "growth/*"),
    "discovery": ("PDB entries 6ZU5, 1AON, 4V8R, 3J9I and 6XLU", "discovery_*"),
    "picking": (LIBRARY, "picking"),
    "real_ribosomes": (RIBOSOMES, "real_ribosomes"),
    "real_poses": (RIBOSOMES, "real_poses"),
    "real_hand": (f"{RIBOSOMES} and their tilt images", "real_hand"),
    "real_spectra": (f"{RIBOSOMES}, {LIBRARY}", "real_spectra"),
    "real_novel": (f"{RIBOSOMES}, what `novelty.py` left in WORK", "real_novel"),
    "real_tomograms": ("the real tomograms", "real_tomograms"),
    "labelled": ("the labelled tomograms", "labelled*"),
    "simulator": (LIBRARY, "simulator"),
    "memory": (NOTHING, "memory"),
    "spread": (NOTHING, "spread"),
    "rates": (NOTHING, "rates"),
    "faults": (NOTHING, "faults"),
    "fuzz": (NOTHING, "fuzz"),
}
UNTOLD = ("faults",)
"""Whose files have the time of one undisturbed run of many."""


def noted_seconds(content: Any) -> float:
    """The times in a result file, added up."""
    if not isinstance(content, dict):
        return sum(map(noted_seconds, content)) if isinstance(content, list) else 0
    total = 0.0
    for key, value in content.items():
        if key in ("seconds", "training_seconds", "seconds_of_predict"):
            total += sum(value.values()) if isinstance(value, dict) else value or 0
        else:
            total += noted_seconds(value)
    return total


def running() -> str:
    """What every script needs, and the time that stands in its result files."""
    rows = []
    for script, (needs, files) in SCRIPTS.items():
        paths = sorted(RESULTS.glob(f"{files}.json"))
        seconds = [] if script in UNTOLD else [noted_seconds(json.loads(path.read_text())) for path in paths]
        minutes = [value / 60 for value in seconds if value]
        span = dict.fromkeys(f"{value:.0f}" if value > 1.5 else f"{value:.1f}" for value in (min(minutes), max(minutes))) if minutes else ()
        rows.append([f"`{script}.py`", needs, str(len(paths) or "to run"), " to ".join(span) or "–"])
    return table(["script", "needs", "result files", "minutes noted, of a file"], rows)


TABLES = (running, demo, simulated, goals, classes, real, recovered, hand, poses, simulator, spectra)
TABLES += (multitask, multitask_gpu, published, published_gpu, recovery, calibration, temperatures, shares, novelty, alignment, ablation)
TABLES += (picking, rivals, second_look, labelled, real_tomograms, orient, pose_probability)
TABLES += (strangers, averages, learned, growth, real_novel, kills, faults, fuzzing, scaling, spread_out, memory, arrays)
FIGURES: dict[str, Callable[[], str]] = {f.__name__: f for f in TABLES}


def fill(text: str) -> str:
    """The page with its blocks made anew."""
    return BLOCK.sub(lambda m: f"<!-- figures: {m[1]} -->\n{FIGURES[m[1]]()}\n<!-- end of figures -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if check and filled != text:
            sys.exit(f"{page.relative_to(ROOT)} shows figures other than the result files: run python scripts/update_figures.py")
        page.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
