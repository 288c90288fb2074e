"""README.md and the model card: the demo, and the shipped model on simulated particles; what was asked of it stands in docs/benchmarks.md."""

from __future__ import annotations

import math
from typing import NamedTuple

from figures.markdown import number, table
from figures.results import NO_RESULTS, Content, find, read, source


def demo() -> str:
    """The table with which the demo ends."""
    content = read("demo")
    names = {"accuracy": "accuracy", "mean_iou": "mean IoU of the masks", "mean_density_correlation": "mean density correlation"}
    rows = [[text, f"{content[key]:.3f}"] for key, text in names.items()]
    scale = f"{content['particles']} particles, {content['classes']} classes, "
    scale += f"SNR {content['snr']:g}, averaged over half turns, {content['seconds']:.0f} s in all"
    return f"{table(['measure', 'value'], rows)}\n\n{scale} {source(content)}"


def simulated() -> str:
    """The shipped model on fresh simulated particles, a row per test; and where `orient` looks at them again."""
    content, oriented = read("shipped_model"), read("orient")
    keys = ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    tests = dict(content["tests"])
    for snr, test in oriented["tests"].items():
        tests[f"all, SNR {snr}, then `orient`"] = {"particles": test["particles"], **test["rivals_tried"]["all"]}
    rows = [[name, str(test["particles"]), *(f"{test[key]:.3f}" for key in keys)] for name, test in tests.items()]
    return f"{table(['test', 'particles', 'accuracy', 'IoU', 'correlation', 'ECE'], rows)}\n\n{source(content)}\n{source(oriented)}"


def in_cells() -> str:
    """The shipped model on purified particles and in a cytosol, at the SNR of the dose."""
    if not (content := find("in_cells")):
        return NO_RESULTS
    keys = ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error")
    rows = [[name, f"{test['median_snr']:.2f}", *(f"{test[key]:.3f}" for key in keys)] for name, test in content["tests"].items()]
    particles = next(iter(content["tests"].values()))["particles"]
    return f"{table(['particles', 'median SNR', 'accuracy', 'IoU', 'correlation', 'ECE'], rows)}\n\n{particles} particles each. {source(content)}"


def classes() -> str:
    """Per class at SNR 0.1, all structures."""
    content = read("shipped_model")
    keys = ("recall", "precision", "mean_iou", "mean_density_correlation")
    found = content["tests"]["all, SNR 0.1"]["classes"]
    rows = [[name, str(row["particles"]), *(number(row[key], ".2f") for key in keys)] for name, row in found.items()]
    return f"{table(['class', 'particles', 'recall', 'precision', 'IoU', 'correlation'], rows)}\n\n{source(content)}"


class Goal(NamedTuple):
    """What was asked, what `predict` reaches and then `orient` (None: not measured), and whether more is better."""

    what: str
    asked: float
    predicted: float | None
    oriented: float | None = None
    more: bool = True

    def row(self) -> list[str]:
        reached = (self.predicted, self.oriented)
        return [self.what, f"{self.asked:.2f}", *(word for found in reached for word in (number(found), self.met(found)))]

    def met(self, found: float | None) -> str:
        if found is None:
            return "–"
        return "yes" if math.isclose(found, self.asked) or (found > self.asked) == self.more else "no"


def goals_of_simulated() -> list[Goal]:
    simulated, oriented = read("shipped_model")["tests"], read("orient")["tests"]
    measures = {"accuracy": ("accuracy", True), "IoU": ("mean_iou", True), "correlation": ("mean_density_correlation", True)}
    measures["ECE"] = ("expected_calibration_error", False)
    goals = []
    for snr, least in (("0.1", (0.97, 0.85, 0.95, 0.02)), ("0.03", (0.90, 0.75, 0.88, 0.02))):
        for (name, (key, more)), asked in zip(measures.items(), least, strict=True):
            then = oriented[snr]["rivals_tried"]["all"][key] if snr in oriented else None
            goals.append(Goal(f"all, SNR {snr}: {name}", asked, simulated[f"all, SNR {snr}"][key], then, more))
    return goals


def goals_of_real_ribosomes() -> list[Goal]:
    real = read("real_ribosomes")
    turned = real["real_half_turns"]
    goals = [Goal("real ribosomes called a ribosome", 0.95, real["real"]["share_called_ribosome"])]
    for ways, found in (("", real["real"]), (", half turns", turned)):
        goals.append(Goal(f"the same, class shares estimated{ways}", 0.95, found["estimated_shares"]["share_called_ribosome"]))
    controls: list[Content] = [*real["controls"].values(), *turned["controls"].values()]
    most = max(way["share_called_ribosome"] for control in controls for way in (control, control["estimated_shares"]))
    goals.append(Goal("controls called a ribosome, at most, in any of these ways", 0.0, most, more=False))
    goals.append(Goal("real ribosomes: correlation of the recovered density", 0.7, real["real"]["correlation_recovered"]["own_pose"]))
    return goals


def goals_of_mixture() -> list[Goal]:
    mixture = read("discovery_0.1")
    return [
        Goal("AUROC of known against new structures, SNR 0.1", 0.95, mixture["novelty"]["auroc"], mixture["second_opinion"]["auroc"]),
        Goal("adjusted Rand index of the groups of new structures", 0.9, None, mixture["groups"]["ari_of_new_called_unknown"]),
    ]


def goals() -> str:
    """What was asked, and what the network reaches by itself, and with the structures that `orient` tries."""
    rows = [goal.row() for goal in (*goals_of_simulated(), *goals_of_real_ribosomes(), *goals_of_mixture())]
    return table(["what", "asked", "`predict`", "met", "then `orient`", "met"], rows)


TABLES = (demo, simulated, in_cells, classes, goals)
