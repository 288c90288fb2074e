"""docs/benchmarks.md and docs/discovery.md: structures that a network was never shown, simulated and real."""

from __future__ import annotations

from figures.markdown import percent, table
from figures.real_data import POSES, pose_figures
from figures.results import NO_RESULTS, Content, find, source
from figures.seeds import SNRS, Runs, about, all_runs, read_runs, spread, still_to_run, with_places

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
        found = all_runs(group)
        for key, name in NOVELTY_SCORES.items() if found else ():
            rows.append([name + text, *(spread([run["tests"][snr]["scores"][key]["auroc"] for run in found]) for snr in SNRS)])
        for snr in SNRS if found else ():
            second.append([snr + text, *of_withheld([run["tests"][snr] for run in found])])
    runs = plain | contrastive
    first_table = with_places(rows, ["score: AUROC", *(f"SNR {snr}" for snr in SNRS)], runs)
    header = ["SNR", "known called unknown", "withheld called unknown", "withheld: IoU", "withheld: correlation", "withheld: ARI of groups"]
    return f"{first_table}{with_places(second, header, runs)}{of_structures(plain)}{about(runs)}{still_to_run('novelty', runs)}"


def of_structures(runs: Runs) -> str:
    """What becomes of each withheld structure at one SNR, in the fold that withholds it."""
    snr, shown, kinds = "0.1", ("probability", "neighbours", "density"), ("iou", "correlation", "fsc_measured", "fsc_missing")
    rows = []
    for fold, of_seeds in runs.items():
        found = [run["tests"][snr] for run in of_seeds]
        for name in sorted(found[0]["scores"]["density"]["auroc_of_structures"]) if found else ():
            scores = [spread([test["scores"][key]["auroc_of_structures"][name] for test in found]) for key in shown]
            maps = [spread([test["maps"][name].get(kind) for test in found]) for kind in kinds]
            rows.append([fold, f"`{name}`", *scores, *maps])
        if found:
            known = [spread([test["maps"]["known"].get(kind) for test in found]) for kind in kinds]
            rows.append([fold, "the known ones", *["–"] * len(shown), *known])
    judged = ("IoU", "correlation", "mean FSC, measured", "mean FSC, missing wedge")
    return with_places(rows, ["fold", f"withheld, SNR {snr}", *(f"AUROC: {NOVELTY_SCORES[key]}" for key in shown), *judged], runs)


def of_withheld(tests: list[Content]) -> list[str]:
    """What becomes of withheld structures at one SNR."""
    shares = [spread([test["share_called_unknown"][kind] for test in tests]) for kind in ("known", "withheld")]
    maps = [spread([test["maps"]["withheld"][kind] for test in tests]) for kind in ("iou", "correlation")]
    return [*shares, *maps, spread([test["groups"]["whitened"]["adjusted_rand_index"] for test in tests])]


def real_novel() -> str:
    """Real ribosomes, and a network that was never shown any."""
    if not (content := find("real_novel")):
        return NO_RESULTS
    rows = []
    for kind, called in content["called"].items():
        name = f"the {content['particles']} ribosomes" if kind == "real" else f"control: {kind}"
        most = ", ".join(f"{number} {word}" for word, number in list(called["classes"].items())[:3])
        rows.append([name, percent(called["share_unknown"]), percent(called["share_none"]), most])
    first = table(["input", "verdict unknown", "verdict none", "best class, of most"], rows)
    ways = [[name, *pose_figures(way)] for name, way in content["poses_without_a_reference"].items()]
    second = table(["aligned, without a reference, through", *POSES], ways)
    return f"{first}\n\n{told_apart(content)}\n\n{second}\n\n{source(content)}"


def told_apart(content: Content) -> str:
    """How well the ribosomes are told from the controls, and what their densities and groups are worth."""
    correlation = content["correlation_recovered"]
    told = [
        f"AUROC of the novelty, ribosomes against controls: {content['auroc_against_controls']:.2f}.",
        f"Recovered density and averaged density: correlation {correlation['own_pose']:.2f} in own pose, {correlation['other_poses']:.2f} in others.",
    ]
    for key, text in (("groups_of_unknown", "called unknown"), ("groups_of_all", "in all")):
        found = content[key]
        inside = f"the best of {found['groups']} groups holds {found['ribosomes_in_best']} of the {found['ribosomes']} ribosomes among them"
        told.append(f"Of {found['particles']} particles and controls {text}, {inside}, and {found['others_in_best']} controls.")
    return " ".join(told)


TABLES = (novelty, real_novel)
