"""docs/discovery.md: poses without a reference, and mixtures of known and new structures."""

from __future__ import annotations

import statistics

from figures.markdown import number, percent, table
from figures.orienting import pose_errors
from figures.results import NO_RESULTS, Content, read_all, source

WAYS = {
    "recovered": "recovered densities",
    "recovered_then_refined": "recovered densities, then subtomograms",
    "subtomograms": "subtomograms",
}


def alignment() -> str:
    """Poses found in three ways, with and without the structure."""
    runs = read_all("alignment/*")
    if not runs:
        return NO_RESULTS
    rows = []
    for run in sorted(runs, key=lambda run: (run["class"], -run["snr"])):
        for key, reference in (("with_the_structure", "the structure"), ("without_reference", "none")):
            for way, text in WAYS.items():
                found = run[key][way]
                figures = (*pose_errors(found), f"{found['resolution']:.1f} Å", f"{found['seconds']:.0f}")
                rows.append([run["class"], f"{run['snr']:g}", reference, text, *figures])
    header = ["class", "SNR", "reference", "aligned through", "median error", "within 10°", "median shift", "FSC 0.5 with the structure", "seconds"]
    best = ", ".join(f"{run['class']} at {run['snr']:g}: {run['true_poses']['resolution']:.1f} Å" for run in runs)
    reached = f"{runs[0]['particles']} particles of each class; averages in the true poses reach: {best}."
    return f"{table(header, rows)}\n\n{reached} {source(runs[0], 'alignment/*')}"


def mixtures() -> list[Content]:
    return read_all("discovery_*")


def strangers() -> str:
    """Which structures of a mixture are called unknown."""
    runs = mixtures()
    if not runs:
        return NO_RESULTS
    rows = [row for run in runs for row in called_unknown(run)]
    header = ["SNR", "structure", "known to the model", "called unknown by `predict`", "and by `orient`", "AUROC of `predict`", "with `orient`"]
    return f"{table(header, rows)}\n\n" + "\n".join(map(source, runs))


def called_unknown(run: Content) -> list[list[str]]:
    """A row for each structure of a mixture, and for all that are known and all that are not."""
    snr = f"{run['snr']:g}"
    found = [run["novelty"], run.get("second_opinion", run["novelty"])]
    rows = []
    for name in found[0]["structures"]:
        own = [item["structures"][name] for item in found]
        shares = [percent(item["called_unknown"]) for item in own]
        rows.append([snr, name, "yes" if name in run["known"] else "no", *shares, *(number(item["auroc"]) for item in own)])
    rows.append([snr, "all that are known", "yes", *(percent(item["known_called_unknown"]) for item in found), "–", "–"])
    new = (percent(item["new_called_unknown"]) for item in found)
    rows.append([snr, "all that are not", "no", *new, *(f"{item['auroc']:.3f}" for item in found)])
    return rows


def averages() -> str:
    """The groups of a mixture and their averages."""
    runs = mixtures()
    if not runs:
        return NO_RESULTS
    rows = [[f"{run['snr']:g}", *of_average(average)] for run in runs for average in run["averages"]]
    header = ["SNR", "most are", "known", "particles (of these)", "angular error: median, within 10°"]
    header += ["half-set FSC 0.143", "FSC 0.5 with the structure", "in the true poses", "of all there are, in the true poses"]
    header += ["best match"]
    return f"{table(header, rows)}\n\n" + "\n\n".join(map(grouped, runs))


def of_average(average: Content) -> list[str]:
    """A group and its average."""
    structure, match = average["structure"], average["matches"][0]
    particles = f"{average['particles']} ({percent(average['purity'])})"
    pose = f"{average['median_angular_error']:.1f}°, {percent(average['share_within_10_degrees'])}"
    keys = ("half_set_resolution", "resolution", "resolution_in_true_poses", "resolution_of_all_in_true_poses")
    resolutions = (number(average[key], ".1f", " Å") for key in keys)
    wrong = "" if match == structure else " (wrong)"
    return [structure, "no" if average["new"] else "yes", particles, pose, *resolutions, f"{match}{wrong}"]


def grouped(run: Content) -> str:
    """How many particles of a mixture are grouped, and how well."""
    found, seconds = run["groups"], run["seconds"]["discover"]
    return (
        f"SNR {run['snr']:g}: {found['called_unknown']} of {run['particles']} particles called unknown, {found['grouped']} of them in "
        f"{found['groups']} groups in {seconds:.0f} s; adjusted Rand index {found['ari_of_new_called_unknown']:.2f} over the new ones "
        f"called unknown, {found['ari_of_new_grouped']:.2f} over those in a group. {source(run)}"
    )


def learned() -> str:
    """Classes added from few particles."""
    runs = mixtures()
    if not runs:
        return NO_RESULTS
    rows = []
    for run in runs:
        for count in sorted({trial["examples"] for trial in run["learning"]}):
            trials = [trial for trial in run["learning"] if trial["examples"] == count]
            keys = ("new", "old", "old_before", "new_verdicts", "old_verdicts", "old_verdicts_before")
            rows.append([f"{run['snr']:g}", str(count), *(share_of_draws([trial[key] for trial in trials]) for key in keys)])
    header = ["SNR", "particles of each", "best class right: new", "old", "old, before", "verdict right: new", "old", "old, before"]
    draws = len({trial["draw"] for trial in runs[0]["learning"]})
    return f"{table(header, rows)}\n\n{len(runs[0]['new'])} classes added at once, {draws} draws of the particles (±: standard deviation)."


def share_of_draws(values: list[float]) -> str:
    mean, deviation = 100 * statistics.mean(values), 100 * statistics.stdev(values)
    return f"{mean:.0f} %" if deviation == 0 else f"{mean:.0f} ± {deviation:.0f} %"


def growth() -> str:
    """Time and memory of discover against the number of particles."""
    found = sorted(read_all("growth/discover_*"), key=lambda row: row["particles"])
    if not found:
        return NO_RESULTS
    keys = ("seconds_of_predict", "seconds_until_groups", "seconds")
    rows = [[f"{row['particles']:,}", str(row["groups"]), *(f"{row[key]:,.0f} s" for key in keys), f"{row['peak_gb']:.2f} GB"] for row in found]
    header = ["particles", "groups", "predict", "discover: until the groups are found", "discover in all", "most memory held"]
    return f"{table(header, rows)}\n\n{source(found[-1], 'growth/*')}"


TABLES = (alignment, strangers, averages, learned, growth)
