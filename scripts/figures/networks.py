"""docs/benchmarks.md: networks beside each other, of one task and of three, of others and ours; and what the densities of ours are worth."""

from __future__ import annotations

import statistics

from figures.markdown import number, table
from figures.results import NO_RESULTS, Content, find, source
from figures.seeds import AT_SNR, MEASURES, SNRS, Runs, about, folder_of, over_snr, picture, read_runs, row_of_cell, spread, still_to_run, with_places

MULTITASK = {
    "class": "class",
    "mask": "mask",
    "density": "density",
    "all": "all three",
    "all_long": "all three, arithmetic of the three alone",
    "class_long": "class, arithmetic of all three",
    "class_mask": "class, mask",
    "class_density": "class, density",
    "mask_density": "mask, density",
    "all_uncertainty": "all three, losses weighted by uncertainty",
    "all_gradient": "all three, gradients equalised",
    "all_wide": "all three, 1.5 x the channels",
}
ALONE = ("class", "mask", "density")


def multitask(size: str = "cpu") -> str:
    """Tasks together and apart."""
    runs = read_runs(folder_of("multitask", size), tuple(MULTITASK))
    header = ["heads", "samples", "MMACs per particle", *AT_SNR]
    rows = [row_of_cell(text, runs[cell], of_heads) for cell, text in MULTITASK.items()]
    ends = f"{about(runs)}{picture('multitask', size)}{still_to_run('multitask', runs, size)}"
    return f"{with_places(rows, header, runs)}{gains_by_seed(runs)}{gains_of_cells(runs)}{ends}"


def of_heads(items: list[Content]) -> list[str]:
    return [f"{items[0]['samples']:,}", arithmetic(items[0]), *over_snr(items)]


def arithmetic(run: Content) -> str:
    """Of a network, for one particle; a dash for what is none."""
    return f"{run['macs_per_particle'] / 1e6:,.0f}" if "macs_per_particle" in run else "–"


def gains(some: list[Content], others: list[Content], key: str, snr: str) -> list[float]:
    """What networks gain over others of the same seed, whose samples begin alike; nothing in a task that they lack."""
    pairs = [(one["tests"][snr][key], other["tests"][snr][key]) for one in some for other in others if one["seed"] == other["seed"]]
    return [one - other for one, other in pairs if one is not None and other is not None]


def gains_by_seed(runs: Runs) -> str:
    """What all three tasks together gain over each alone, with equal samples and with equal arithmetic."""
    rows = []
    for cell, key in zip(ALONE, MEASURES, strict=True):
        for snr in SNRS:
            gained = [gains(runs[together], runs[cell], key, snr) for together in ("all", "all_long")]
            if any(gained):
                rows.append([MEASURES[key], snr, *(text for part in gained for text in mean_and_each(part))])
    head = ["all three, less the one task alone", "SNR", "equal samples: mean", "of each seed", "equal arithmetic: mean", "of each seed"]
    return f"{table(head, rows)}\n\n" if rows else ""


def mean_and_each(values: list[float]) -> tuple[str, str]:
    """Dashes where nothing has been run."""
    return (f"{statistics.mean(values):+.3f}", " / ".join(f"{value:+.3f}" for value in values)) if values else ("–", "–")


def gains_of_cells(runs: Runs) -> str:
    """What every other network gains over each task alone: means over the seeds that both have."""
    rows = []
    for cell, text in MULTITASK.items():
        if cell not in ("all", "all_long", *ALONE) and runs[cell]:
            parts = [[gains(runs[cell], runs[own], key, snr) for snr in SNRS] for own, key in zip(ALONE, MEASURES, strict=True)]
            rows.append([text, *(" / ".join(f"{statistics.mean(part):+.3f}" for part in own) if all(own) else "–" for own in parts)])
    return f"{table(['less the one task alone, same seeds', *AT_SNR], rows)}\n\n" if rows else ""


def multitask_gpu() -> str:
    return multitask("gpu")


OURS = {"all": "triptych, all three", "all_long": f"triptych, {MULTITASK['all_long']}"}
PUBLISHED = {
    "shipped": "triptych, the shipped model (26 classes)",
    "dsrf3d": "DSRF3D, equal samples",
    "dsrf3d_equal_arithmetic": "DSRF3D, equal arithmetic",
    "dsrf3d_normalised": "DSRF3D with batch normalisation, equal arithmetic",
    "ssn3d_ed": "SSN3D-ED, equal samples",
    "ssn3d_ed_equal_arithmetic": "SSN3D-ED, equal arithmetic",
    "ssn3d_ed_normalised": "SSN3D-ED with batch normalisation, equal arithmetic",
    "template_matching": "template matching, true templates",
}
MATCHED = ("all_long", "shipped")
NETWORKS = {"dsrf3d": "DSRF3D", "ssn3d_ed": "SSN3D-ED for masks", "ssn3d_ed_density": "SSN3D-ED for densities"}


def published(size: str = "cpu") -> str:
    """Networks and a method of others beside ours, and ours on the particles of template matching."""
    runs = read_runs(folder_of("published", size), tuple(dict.fromkeys((*PUBLISHED, *MATCHED))))
    ours = read_runs(folder_of("multitask", size), tuple(OURS))
    header = ["method", "samples", "parameters", "MMACs per particle", "particles/s", *AT_SNR]
    rows = [row_of_cell(text, ours[cell], of_method) for cell, text in OURS.items()]
    for cell, text in PUBLISHED.items():
        particles = f" ({runs[cell][0]['test_particles']} particles)" if cell == "template_matching" and runs[cell] else ""
        rows.append(row_of_cell(text + particles, runs[cell], of_method))
    rows += [row_of_cell(f"{(OURS | PUBLISHED)[cell]}, on the same particles", runs[cell], of_matched) for cell in MATCHED]
    to_run = still_to_run("published", {**runs, "rates": []}, size, once=("template_matching", "shipped", "rates"))
    return f"{with_places(rows, header, runs)}{about(runs)}{speeds(size)}{to_run}"


def of_method(items: list[Content]) -> list[str]:
    numbers = [number(items[0].get(key), ",") for key in ("samples", "parameters")]
    rates = [run["particles_per_second"] for run in items if "particles_per_second" in run]
    return [*numbers, arithmetic(items[0]), f"{statistics.mean(rates):.3g}" if rates else "–", *over_snr(items)]


def of_matched(items: list[Content]) -> list[str]:
    """Figures of ours on the particles of template matching."""
    return ["–"] * 4 + over_snr([{"tests": item["matched"]} for item in items])


def crowding() -> str:
    """How what our networks name rightly depends on the small proteins between the particles."""
    runs = read_runs("published", MATCHED)
    rows = []
    for cell in MATCHED:
        for share in runs[cell][0]["by_cytosol"] if runs[cell] else ():
            items = [{"tests": run["by_cytosol"][share]} for run in runs[cell]]
            low, high = (f"{100 * float(limit):g}" for limit in share.split("-"))
            rows.append([(OURS | PUBLISHED)[cell], f"{low} to {high} %", str(items[0]["tests"][SNRS[0]]["particles"]), *over_snr(items)])
    return f"{with_places(rows, ['network', 'cytosol', 'particles', *AT_SNR], runs)}{about(runs)}"


def speeds(size: str) -> str:
    """How much faster one network is than three, measured by turns in one run."""
    found = find(f"{folder_of('published', size)}/rates_0")
    if found is None:
        return ""
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
    runs = read_runs("recovery", ("all_long",))
    header = ["density", "SNR", "correlation", "mean FSC, measured", "mean FSC, missing wedge", "FSC 0.5 at, measured", "FSC 0.5 at, missing wedge"]
    rows = []
    for key, text in RECOVERY.items():
        for snr in SNRS if runs["all_long"] else ():
            parts = [run["tests"][snr][key] for run in runs["all_long"]]
            fsc = [spread([part[where]["mean_fsc"] for part in parts]) for where in ("measured", "missing")]
            half = [spread([part[where]["half_at_angstrom"] for part in parts], ".0f", " Å") for where in ("measured", "missing")]
            rows.append([text, snr, spread([part["correlation"] for part in parts]), *fsc, *half])
    return f"{with_places(rows, header, runs)}{about(runs)}{picture('recovery')}{still_to_run('recovery', runs)}"


MASKS = {
    "head": "the mask's own head",
    "density": "the recovered density above a level",
    "both": "head and density together above a level",
    "truth": "the true density above a level",
}


def masks() -> str:
    """IoU of masks that are read from the head, from the density, or from both."""
    cells = ("all", "all_long", "mask_density", "all_uncertainty")
    runs = read_runs("masks", cells)
    rows = []
    for cell in cells:
        for key, text in MASKS.items() if runs[cell] else ():
            figures = [spread([run["tests"][snr][key]["mean_iou"] for run in runs[cell]]) for snr in SNRS]
            rows.append([MULTITASK[cell], text, *figures])
    header = ["heads", "mask", *(f"IoU at SNR {snr}" for snr in SNRS)]
    return f"{with_places(rows, header, runs)}{about(runs)}{still_to_run('masks', runs)}"


SIGNS = {
    "density": "the recovered density's own distance from 0",
    "half_turns": "standard deviation over half turns",
    "mask": "p (1 - p) of the mask",
    "fitted": "error of voxels alike in all three, of other particles",
}


def uncertainty() -> str:
    """What foretells the error of the shipped model's recovered densities, voxel by voxel."""
    if not (content := find("uncertainty")):
        return NO_RESULTS
    rows = []
    for key, text in SIGNS.items():
        for where, name in (("whole_box", "whole box"), ("inside", "particle")):
            rows.append([text, name, *(f"{content['tests'][snr]['signs'][key][where]:.2f}" for snr in SNRS)])
    shown = table(["rank correlation with the absolute error", "voxels", *(f"SNR {snr}" for snr in SNRS)], rows)
    return f"{shown}\n\n{content['tests'][SNRS[0]]['particles']} particles at each SNR. {source(content)}"


def fidelity() -> str:
    """Expected against found correlations of the densities that the shipped model recovers, of known structures and new ones."""
    if not (content := find("fidelity")):
        return NO_RESULTS
    tests = [(name, snr, content["tests"][kind][snr]) for kind, name in (("known", "known"), ("new", "never shown to the network")) for snr in SNRS]
    rows = []
    for name, snr, test in (*tests, ("20 real ribosomes, against their average", "–", content["real"])):
        within = f"{test['within_class']:.2f}" if "within_class" in test else "–"
        plain = (f"{test[key]:.3f}" for key in ("mean", "best_half", "error"))
        rows.append([name, snr, *plain, f"{test['bias']:+.3f}", f"{test['rank_correlation']:.2f}", within])
    heads = ["structures", "SNR", "mean correlation", "of the better half by fidelity", "error of the fidelity", "its bias"]
    shown = table([*heads, "rank correlation", "rank correlation within a class"], rows)
    counts = " and ".join(str(kind[SNRS[0]]["particles"]) for kind in content["tests"].values())
    return f"{shown}\n\n{counts} particles at each SNR. {source(content)}"


TABLES = (multitask, multitask_gpu, masks, published, published_gpu, crowding, recovery, uncertainty, fidelity)
