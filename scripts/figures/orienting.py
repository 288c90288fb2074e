"""docs/orienting.md: poses of known structures."""

from __future__ import annotations

from figures.markdown import percent, table
from figures.results import NO_RESULTS, Content, find, read, source


def pose_errors(way: Content) -> list[str]:
    """Median error, share within 10°, and median shift."""
    return [f"{way['median_angular_error']:.1f}°", percent(way["share_within_10_degrees"]), f"{way['median_shift_error']:.1f} Å"]


def orient() -> str:
    """Poses of known structures, and what masks and densities gain where the structure is put there."""
    if not (content := find("orient")):
        return NO_RESULTS
    ways = {
        "recovered": "by recovered densities alone",
        "rivals_tried": "as it is by default: by subtomograms too, rivals tried",
    }
    rows, second = [], []
    for snr, test in content["tests"].items():
        for key, text in ways.items():
            way = test[key]
            rate = f"{way['oriented'] / way['seconds']:.1f}"
            rows.append([snr, text, f"{way['oriented']} of {test['particles']}", str(way["named_rightly"]), *pose_errors(way), rate])
        named = {"the network alone": test["network"], **{f"the structure, {text}": test[key]["all"] for key, text in ways.items()}}
        measures = ("accuracy", "expected_calibration_error", "mean_iou", "mean_density_correlation")
        second += [[snr, text, *(f"{found[key]:.3f}" for key in measures)] for text, found in named.items()]
    header = ["SNR", "pose", "oriented", "named rightly", "median error", "within 10°", "median shift", "particles/s"]
    maps = table(["SNR", "named and drawn by", "accuracy", "ECE", "IoU", "correlation"], second)
    return f"{table(header, rows)}\n\n{maps}\n\n{source(content)}"


def pose_probability() -> str:
    """Which poses are right, by their probabilities and by their scores."""
    content = read("orient")
    rows = []
    for snr, test in content["tests"].items():
        found = test["rivals_tried"]["pose_probability"]
        shares = [percent(found[key], ".1f") for key in ("about_right", "sure", "about_right_of_the_sure", "about_right_of_the_others")]
        rows.append([snr, *shares, *(f"{found[key]:.3f}" for key in ("expected_calibration_error", "auroc", "auroc_of_the_score"))])
    header = ["SNR", "poses right", "probability 0.9 or more", "right of these", "right of the others", "ECE", "AUROC", "AUROC of the score"]
    return f"{table(header, rows)}\n\nRight: the class is, and the pose to 20° or so that the structure looks the same. {source(content)}"


TABLES = (orient, pose_probability)
