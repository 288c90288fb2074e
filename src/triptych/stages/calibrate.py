"""A trained model + labelled subtomograms -> the same weights with another temperature, novelty reference, and fidelity of recovered densities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych.config import CalibrateConfig
from triptych.errors import InputError
from triptych.io.manifest import describe_input, history, input_listings, is_written_by, read_manifest
from triptych.io.outputs import check_output_folder
from triptych.io.store import Store, known_labels, open_store
from triptych.parallel import Progress
from triptych.recognition.fidelity import Fidelity
from triptych.recognition.model import Model, load_model, locate_model
from triptych.recognition.network import Network
from triptych.recognition.temperature import Temperature, fit_temperature
from triptych.training.confidence import Sample, SampleLooks, choose_rows, class_figures, fit_recovery, fit_reference, look
from triptych.training.dataset import split_rows

logger = logging.getLogger(__name__)

COPIED = ("README.md", "training.csv")
"""Files of the model folder that stay as they are."""


def calibrate(
    model: Path | str | None,
    data: Path | str,
    out: Path | str,
    config: CalibrateConfig | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Fit temperature, novelty reference and fidelity of a trained model anew, and write it as a new model folder.

    Classes of the data that the model does not know serve as novel structures, on which the score and the threshold of the novelty are
    chosen. Where there are none, the threshold accepts the share of the known particles that the settings state. The fidelity, the correlation
    with the truth that recovered densities are expected to have, is fitted where the model recovers densities and the data hold true ones; it is
    all that there is to fit of a model without the class task.

    Parameters
    ----------
    model : model folder; None: the one that ships with triptych
    data : dataset store that the model has not been trained on, with the model's box and voxel size
    out : model folder to make
    on_progress : called with (particles done, particles in all)

    Raises
    ------
    InputError
        If the data do not fit the model, come from a single tomogram, or hold no particle of a class that the model knows.
    """
    config = config or CalibrateConfig()
    folder, out = locate_model(model), check_output_folder(Path(out))
    given = load_model(folder, config.device, config.precision)
    check_kept(given, config)
    network = with_spectrum(given, config)
    sample = draw_sample(open_store(data), network, config)
    trained = read_manifest(folder)
    warn_of_known(Path(data), trained)
    fits_novelty = config.fit_novelty and names_classes(given)
    if fits_novelty:
        warn_of_missing(sample, given.card.class_names)
    seen = look(network, sample, config.batch_size, on_progress)
    temperature, figures = judge_temperatures(network, sample, seen, config.fit_temperature)
    reference = fit_reference(seen, sample, config.novelty) if fits_novelty else given.novelty
    fidelity = choose_fidelity(given, seen, config)
    card = replace(network.card, temperature=temperature, fidelity=fidelity)
    fitted = Model(network.network, card, config.device, config.precision, reference)
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in COPIED if (folder / name).is_file()}
    extra: dict[str, object] = {"calibration": figures, "device": network.device_name, "trained": trained}
    return fitted.save(out, config, [folder, Path(data)], config.seed, extra, texts, "calibrate", {"model": folder, "data": data})


def names_classes(model: Model) -> bool:
    return "class" in model.card.network.tasks


def check_kept(model: Model, config: CalibrateConfig) -> None:
    """InputError where the model has no novelty reference to keep, or one that would no longer be right; a warning for such a temperature."""
    if not names_classes(model):
        return
    if not config.fit_temperature and config.spectrum not in (None, model.card.network.spectrum):
        logger.warning("another `spectrum` changes the logits, but fit_temperature is false: the model's temperature is kept, and may be wrong now")
    if config.fit_novelty:
        return
    if model.novelty is None:
        raise InputError("fit_novelty is false, but the model has no novelty reference to keep: leave the setting out")
    if config.spectrum not in (None, model.card.network.spectrum):
        raise InputError("fit_novelty is false, but another `spectrum` changes what the novelty reference is made of: leave one of the two out")


def choose_fidelity(model: Model, seen: SampleLooks, config: CalibrateConfig) -> Fidelity | None:
    """The fidelity to keep: the model's, where none can be fitted and the network sees what it saw before."""
    fitted = fit_recovery([seen.fitting, seen.held_out]) if config.fit_fidelity else None
    if fitted is not None or "density" not in model.card.network.tasks:
        return fitted
    kept = model.card.fidelity if config.spectrum in (None, model.card.network.spectrum) else None
    if config.fit_fidelity:
        what = "stays as it was" if kept else "is missing from the new model"
        logger.warning("the data have too few particles with true densities to fit the fidelity to, so it %s", what)
    elif model.card.fidelity != kept:
        logger.warning("another `spectrum` changes what the fidelity is told by, so it is left out of the new model: fit it anew (fit_fidelity=true)")
    return kept


def with_spectrum(model: Model, config: CalibrateConfig) -> Model:
    """The same weights behind another treatment of spectra, where one is asked for."""
    if config.spectrum is None:
        return model
    card = replace(model.card, network=model.card.network.model_copy(update={"spectrum": config.spectrum}))
    network = Network(card.network, len(card.class_names), len(card.label_names))
    network.load_state_dict(model.network.state_dict())
    return Model(network, card, config.device, config.precision)


def draw_sample(store: Store, model: Model, config: CalibrateConfig) -> Sample:
    """Rows for fitting and for judging, held out as in training."""
    check_store(store, model)
    label = known_labels(store, model.card.class_names)
    rest, held_out = split_rows(store, config.held_out_share, len(store), config.seed)
    fitting = choose_rows(rest[label[rest] >= 0], config.novelty.particles, config.seed)
    sample = Sample(store, label, fitting, held_out[label[held_out] >= 0], np.flatnonzero(label < 0))
    if not (len(sample.fitting) and len(sample.held_out)):
        raise InputError(f"too few particles of {store.path} are of classes that the model knows: give more, from several tomograms")
    return sample


def warn_of_missing(sample: Sample, class_names: Sequence[str]) -> None:
    """Warn of classes that the reference is not shown: what does not look like it counts as new, and so will they."""
    missing = [name for label, name in enumerate(class_names) if not (sample.label[sample.fitting] == label).any()]
    if missing:
        what = f"the novelty reference is made from no particles of {', '.join(missing)}, so that most of these will be called unknown"
        logger.warning("%s: give data that hold every class that you may meet, or keep the model's reference (fit_novelty=false)", what)


def warn_of_known(data: Path, made: dict[str, Any]) -> None:
    """Warn of data that the model of a manifest was trained on: of these it is surer, and more often right, than of any others."""
    seen = {listing for model in history(made) if is_written_by(model, "train") for listing in input_listings(model)}
    if seen and describe_input(data).get("sha256_of_listing") in seen:
        what = "%s is what the model was trained on, of which it is surer than of new particles, so that its probabilities will promise too much"
        logger.warning(f"{what}: give data that it has not seen, for example simulated with another seed", data)


def check_store(store: Store, model: Model) -> None:
    """InputError unless the model can look at the boxes of a store as they are, and names classes or recovers densities."""
    card = model.card
    if not {"class", "density"} & set(card.network.tasks):
        raise InputError("the model was trained without the tasks class and density, so there is nothing to calibrate")
    if store.box_size != card.box_size or abs(store.voxel_size / card.voxel_size - 1) > 1e-3:
        ours, theirs = (f"{item.box_size}^3 voxels of {item.voxel_size:g} Å" for item in (card, store))
        raise InputError(f"{store.path} holds boxes of {theirs}, but the model looks at {ours}: simulate with those")


def judge_temperatures(model: Model, sample: Sample, seen: SampleLooks, fit: bool) -> tuple[Temperature, dict[str, Any]]:
    """The temperature to keep, and the figures of the held-out particles before and after; without these where the model names no classes."""
    particles = {"particles": len(sample.held_out), "withheld_particles": len(sample.withheld)}
    if not names_classes(model):
        return model.card.temperature, particles
    logits, label = torch.from_numpy(np.asarray(seen.held_out.traits.logits)), torch.from_numpy(sample.label[sample.held_out])
    temperature = model.card.temperature
    if fit:
        temperature = fit_temperature(torch.from_numpy(np.asarray(seen.fitting.traits.logits)), torch.from_numpy(sample.label[sample.fitting]))
    before, after = (class_figures(logits, label, value) for value in (model.card.temperature, temperature))
    logger.info("temperature: %.3f, was %.3f", temperature.value, model.card.temperature.value)
    return temperature, {**particles, "before": before, "after": after}
