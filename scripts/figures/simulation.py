"""docs/simulation.md: how fast the simulator is, how like real data, and what each piece of its physics is worth."""

from __future__ import annotations

from figures.markdown import number, table
from figures.results import NO_RESULTS, Content, read, source
from figures.seeds import MEASURES, all_runs, count_seeds, read_runs, row_of_cell, spread, with_places


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
    forms = {"particles": ",.0f", "seconds": ".1f", "particles_per_second": ",.0f"}
    rows = []
    for key, text in names.items():
        figures = content[key]
        rows.append([text, *(number(figures.get(measure), form) for measure, form in forms.items()), f"{figures['peak_gb']:.1f}"])
    return f"{table(['what', 'particles', 'seconds', 'particles/s', 'peak GB'], rows)}\n\n{content['cores']} cores {source(content)}"


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
    return f"{table(header, rows)}\n\n{seen}\n\n{source(content)}"


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
    found = all_runs(runs)
    if not found:
        return NO_RESULTS
    header = ["left out in training", *MEASURES.values(), "real: called a ribosome", "real: mean p(ribosome)"]
    header += ["not deconvolved: called a ribosome", "controls: called a ribosome, at most"]
    rows = [row_of_cell(text, runs[cell], without_a_piece) for cell, text in ABLATION.items()]
    first = found[0]
    told = f"{first['updates']} updates, {first['particles']:,} particles, {count_seeds(runs)}; "
    return f"{with_places(rows, header, runs)}{told}`{first['command']}`, triptych {first['triptych']}, {first['device']}."


def without_a_piece(items: list[Content]) -> list[str]:
    """A network on simulated particles of full physics, and on the real ribosomes and their controls."""
    figures = [spread([run["test"][key] for run in items]) for key in MEASURES]
    real = [spread([run["real"]["real"][key] for run in items], ".2f") for key in ("share_called_ribosome", "mean_probability_ribosome")]
    plain = [run["real"]["real_not_deconvolved"]["share_called_ribosome"] for run in items if "real_not_deconvolved" in run["real"]]
    worst = [max(found["share_called_ribosome"] for name, found in run["real"].items() if not name.startswith("real")) for run in items]
    return [*figures, *real, spread(plain, ".2f"), spread(worst, ".2f")]


TABLES = (simulator, spectra, ablation)
