"""docs/picking.md: particles in whole tomograms, simulated and real."""

from __future__ import annotations

from figures.markdown import number, percent, table, voxels
from figures.results import NO_RESULTS, Content, find, read, source

PICKED = {
    "f1": "location: F1",
    "precision": "precision",
    "recall": "recall",
    "f1_with_class": "location and class: F1",
    "mean_class_f1": "mean over classes",
}


def picking() -> str:
    """Particles found in whole simulated tomograms."""
    if not (content := find("picking")):
        return NO_RESULTS
    rows, sizes = [], []
    for snr, test in content["tests"].items():
        figures = [f"{test[key]:.2f}" for key in PICKED]
        rows.append([snr, str(test["particles"]), f"{test['threshold']:g}", *figures, f"{test['seconds']:.0f}", f"{test['peak_gb']:.1f}"])
        for name, size in test["by_size"].items():
            sizes.append([snr, name, str(size["particles"]), f"{size['located']:.2f}", f"{size['named']:.2f}"])
    header = ["SNR", "particles", "score from", *PICKED.values(), "seconds", "peak GB"]
    second = table(["SNR", "mass", "particles", "found", "found and named"], sizes)
    return f"{table(header, rows)}\n\n{second}\n\n{picked_in(content)}"


def picked_in(content: Content) -> str:
    """The tomograms of a result of picking.py, and where it stands."""
    return f"{voxels(content['shape'])} of 10 Å, {content['tomograms']} tomogram(s) {source(content)}"


def picked_row(snr: str, way: str, figures: Content) -> list[str]:
    """How well one way picks."""
    return [snr, way, str(figures["particles"]), *(f"{figures[key]:.2f}" for key in PICKED), number(figures.get("seconds"), ".0f")]


def rivals() -> str:
    """Classical ways to pick, beside ours in the same tomograms."""
    if not (content := find("rivals")):
        return NO_RESULTS
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
    if not (content := find("second_look")):
        return NO_RESULTS
    rows = []
    for snr, test in content["tests"].items():
        oriented = test["rivals"]["oriented"]
        rows.append(picked_row(snr, "pick", {**oriented["picked"], "seconds": test["seconds"]}))
        rows.append(picked_row(snr, "pick, predict, orient", {**oriented, "seconds": test["seconds"] + oriented["seconds"]}))
    dice = {
        "pick": [f"{test['label_dice']:.2f} at SNR {snr}" for snr, test in content["tests"].items()],
        "orient": [f"{found:.2f} at SNR {snr}" for snr, test in content["tests"].items() if (found := test["rivals"]["oriented"].get("label_dice"))],
    }
    maps = "; ".join(f"in those of `{command}` {', '.join(found)}" for command, found in dice.items() if found)
    means = f"Mean Dice of the classes of particles in the label maps: {maps}."
    return f"{table(['SNR', 'commands', 'particles', *PICKED.values(), 'seconds'], rows)}\n\n{means}\n\n{picked_in(content)}"


def labelled() -> str:
    """Another group's labelled tomograms, a row for each training."""
    names = ("labelled", "labelled_again", "labelled_long", "labelled_longer", "labelled_masks", "labelled_on", "labelled_scratch")
    runs = [run for run in map(find, names) if run]
    if not runs:
        return NO_RESULTS
    keys = ("objects", "located", "right_class", "picks")
    rows = []
    for run in runs:
        how = [f"{run['updates']:,}", f"16 + {run.get('tiles', 16)}", percent(run.get("turned_share", 0))]
        again = run.get("second_look", {})
        second = [number(again.get("mean_dice")), str(again.get("right_class", "–"))]
        rows.append([run["from"], *how, f"{run['mean_dice']:.3f}", *(str(run[key]) for key in keys), *second])
    header = ["training goes on from", "updates", "boxes + tiles of each", "turned boxes", "mean Dice"]
    header += ["objects", "found", "found and named", "picks", "with shapes: mean Dice", "named"]
    return f"{table(header, rows)}\n\n" + "\n".join(map(source, runs))


def real_tomograms() -> str:
    """What is picked in real tomograms, with the contrast that each has and with the other."""
    content = read("real_tomograms")
    rows = []
    for run in content["tomograms"].values():
        contrast = f"{run['contrast']}{'' if run['right_contrast'] else ' (wrong)'}"
        shares = (percent(run["volume"][label], ".2f") for label in ("particle", "membrane"))
        rows.append([run["tomogram"], contrast, "yes" if run["contrast_warnings"] else "no", str(run["picks"]), str(run["unknown"]), *shares])
    header = ["tomogram", "contrast", "warned of it", "picks", "called unknown", "of the volume: particle", "membrane"]
    return f"{table(header, rows)}\n\n{source(content)}"


TABLES = (picking, rivals, second_look, labelled, real_tomograms)
