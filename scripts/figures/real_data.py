"""docs/real_data.md: real ribosomes."""

from __future__ import annotations

from figures.markdown import percent, table
from figures.results import Content, read, source


def real() -> str:
    """The real ribosomes and their controls."""
    content = read("real_ribosomes")
    tests = {
        "real": "the 20 particles",
        "real_half_turns": "the same, averaged over half turns",
        "real_mirrored": "the same, mirrored, which gives them the right hand",
        "real_not_deconvolved": "the same without CTF deconvolution",
        "real_deconvolved_here": "the same without, then `--set deconvolve=multiplied`, as they are",
        "real_deconvolved_as_untreated": "the same without, then `--set deconvolve=untreated`, as they are not",
        "real_from_tilt_images": "the same, reconstructed by triptych from their tilt images",
    }
    rows = [[text, *shares_called(content[key])] for key, text in tests.items() if content.get(key)]
    rows += [[f"control: {name}", *shares_called(figures)] for name, figures in content["controls"].items()]
    header = ["input", "called a ribosome", "called 70S", "mean p(ribosome)", "mean p(none)", "unknown"]
    header += ["shares estimated: a ribosome", "70S", "mean p(ribosome)", "unknown"]
    together = content["one_list"]
    words = f"{together['share_called_ribosome']:.2f} of them and {together['share_of_controls_called_ribosome']:.2f} of the controls"
    last = f"The 20 and all controls in one list, shares estimated: {words} are called a ribosome."
    return f"{table(header, rows)}\n\n{last}\n\n{source(content)}"


def shares_called(figures: Content) -> list[str]:
    """What particles are called, with class shares as in the training data, and estimated."""
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
        "recovered density, without, then `--set deconvolve=multiplied`": content["real_deconvolved_here"]["correlation_recovered"],
        "recovered density, without, then `--set deconvolve=untreated`": content["real_deconvolved_as_untreated"]["correlation_recovered"],
    }
    rows = [[text, f"{e['own_pose']:.2f} ± {e['own_pose_sd']:.2f}", f"{e['other_poses']:.2f}"] for text, e in entries.items()]
    return f"{table(['correlation with the averaged density', 'placed in own pose', 'in other poses'], rows)}\n\n{source(content)}"


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
    return f"{table(header, rows)}\n\n{check}\n\n{source(content)}"


POSES = ["median error", "within 20°", "FSC 0.5 of the average with the averaged density"]


def pose_figures(way: dict[str, float]) -> list[str]:
    """The columns of POSES."""
    return [f"{way['median_angular_error']:.0f}°", percent(way["share_within_20_degrees"]), f"{way['resolution']:.0f} Å"]


def poses() -> str:
    """Poses of the real ribosomes, found in several ways."""
    content = read("real_poses")
    rows = []
    for name, way in content["ways"].items():
        reference, _, through = name.partition(", ")
        rows.append([reference, through or "–", *pose_figures(way)])
    order = content["order_of_the_subtomograms"]
    text = (
        f"Of the poses found by the subtomograms the surest half are right in {percent(order['about_right_of_the_surest_half'])}, the others in "
        f"{percent(order['about_right_of_the_others'])} (within 20°). AUROC of the pose probability, right poses against wrong ones: "
        f"{order['auroc_of_the_probability']:.2f}; of the score: {order['auroc_of_the_score']:.2f}; mean probability {order['mean_probability']:.2f}."
    )
    return f"{table(['reference', 'aligned through', *POSES], rows)}\n\n{text}\n\n{source(content)}"


TABLES = (real, recovered, hand, poses)
