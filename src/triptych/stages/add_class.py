"""Stage `add-class`: a model + groups that `discover` found -> a model that knows them, from as few particles as a group has.

Nothing is trained but one row of the last layer for each new class. The network, and with it the embedding, stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from triptych.errors import InputError
from triptych.io.manifest import check_stage, hash_file, manifest_entry, read_manifest
from triptych.io.output_names import EMBEDDING, GROUP_FOLDERS, SHAPE, WEIGHTS
from triptych.recognition.model import Model, ModelCard, load_model, locate_model
from triptych.recognition.network import Network
from triptych.recognition.novelty import NoveltyReference, add_class
from triptych.simulation.structures import check_class_names

DECAY = 0.003
"""Weight of the squared distance of a new row from the mean of the old ones, lest it be too sure of a few particles."""
OWN_SHARE = 0.1
"""How much the particles of a new class count beside all others: at one half, as many of its nearest relatives as there are would be called it."""
STEPS = 200
LAST_LAYER = "classify.2"


class Newcomer(NamedTuple):
    """A class to be: its name, and the embeddings (n, e) of its particles, and the shapes (n, s) of their recovered densities."""

    name: str
    embedding: NDArray[np.float32]
    shape: NDArray[np.float32]


def add_classes(discovery: Path | str, out: Path | str, names: Mapping[int, str], model: Path | str | None = None) -> Path:
    """Write a model folder that knows groups as classes, after those that it knew.

    Parameters
    ----------
    discovery : folder that `discover` wrote
    out : model folder to make
    names : numbers of groups, and what to call them; groups of the same name become one class
    model : folder of the model that made the predictions, or of one that has learned classes since; default: where it was then

    Raises
    ------
    InputError
        If a group or the model is not there, the model is another one, has no class task or no novelty reference, or a name is taken.
    """
    discovery = Path(discovery)
    folder = find_parent(discovery, model)
    parent = load_model(folder, "cpu")
    check_spectrum(discovery, parent, folder)
    groups = {name: [number for number in names if names[number] == name] for name in names.values()}
    newcomers = [read_groups(discovery, numbers, name) for name, numbers in groups.items()]
    check_class_names(list(groups), parent.card.class_names)
    grown = grow(parent, newcomers, folder)
    added = {item.name: {"groups": groups[item.name], "particles": len(item.embedding)} for item in newcomers}
    about: dict[str, object] = {"parent": {"path": str(folder), "sha256": hash_file(folder / WEIGHTS)}, "added": added, "lineage": lineage(folder)}
    about["trained"] = read_manifest(folder)
    return grown.save(Path(out), None, [folder, discovery], None, about, stage="add-class")


def find_parent(discovery: Path, model: Path | str | None) -> Path:
    """The folder of the model in whose embedding the groups were found."""
    manifest = read_manifest(discovery)
    check_stage(discovery, manifest, "discover")
    stated = manifest_entry(manifest, "model", "path")
    if model is None and not stated:
        raise InputError(f"{discovery} does not say where its model is: give it with --model")
    folder = locate_model(model or str(stated))
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"the model {folder} is not there: say with --model where the model is that the predictions were made with")
    if manifest_entry(manifest, "model", "sha256") not in lineage(folder):
        how = "give that one with --model, or one that add-class made of it"
        raise InputError(f"the model {folder} is not the one that the groups were found with: {how}")
    return folder


def check_spectrum(discovery: Path, model: Model, folder: Path) -> None:
    """InputError where `calibrate` has changed what the weights are shown, and with it the embedding."""
    stated, own = manifest_entry(read_manifest(discovery), "model", "spectrum"), model.card.network.spectrum
    if stated not in (None, own):
        what = f"the groups of {discovery} were found with network.spectrum={stated}, but the model {folder} has {own}, and so another embedding"
        raise InputError(f"{what}: predict and discover anew with that model, or give the one that they were found with")


def lineage(folder: Path) -> list[str]:
    """Hashes of the weights of a model and of those that it was made of by adding classes: all have the same embedding."""
    earlier = manifest_entry(read_manifest(folder), "lineage") or []
    return [*earlier, hash_file(folder / WEIGHTS)]


def read_groups(discovery: Path, numbers: Sequence[int], name: str) -> Newcomer:
    """What groups that are one kind have together."""
    parts = [read_group(discovery, number) for number in numbers]
    return Newcomer(name, *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def read_group(discovery: Path, number: int) -> list[NDArray[np.float32]]:
    """Embeddings and shapes of the particles of a group."""
    folder = discovery / GROUP_FOLDERS / str(number)
    try:
        return [np.load(folder / name, allow_pickle=False) for name in (EMBEDDING, SHAPE)]
    except FileNotFoundError:
        raise InputError(f"{discovery} has no group {number}: give the number of one that its groups.star lists") from None
    except (OSError, ValueError) as error:
        raise InputError(f"the group {folder} cannot be read ({error}): discover anew") from None


# -------------------------------------------------------------------------------------------------------------- new rows


def grow(parent: Model, newcomers: list[Newcomer], folder: Path) -> Model:
    """The model with classes more. Its pick task goes on with the labels that it knew."""
    if "class" not in parent.card.network.tasks:
        raise InputError(f"the model {folder} was trained without the class task, so it cannot learn a class")
    if parent.novelty is None:
        raise InputError(f"the model {folder} has no novelty reference, which tells what the known looks like: make one with `triptych calibrate`")
    state = dict(parent.network.state_dict())
    weight, bias = (state[f"{LAST_LAYER}.{name}"].double() for name in ("weight", "bias"))
    reference = parent.novelty
    length = float(np.mean([np.linalg.norm(item.embedding, axis=1).mean() for item in newcomers]))
    known = known_features(reference, length)
    features = [F.relu(torch.from_numpy(item.embedding).double()) for item in newcomers]
    for number, item in enumerate(newcomers):
        others = torch.cat([known, *features[:number], *features[number + 1 :]])
        row, offset = fit_row(features[number], others, weight, bias)
        weight, bias = torch.cat([weight, row[None]]), torch.cat([bias, offset[None]])
        reference = add_class(reference, item.embedding, item.shape, np.random.default_rng(number))
    card = parent.card
    for item in newcomers:
        card = with_class(card, item.name)
    network = Network(card.network, len(card.class_names), len(card.label_names))
    network.load_state_dict(state | {f"{LAST_LAYER}.weight": weight.float(), f"{LAST_LAYER}.bias": bias.float()})
    return Model(network, card, "cpu", novelty=reference)


def with_class(card: ModelCard, name: str) -> ModelCard:
    """The card with a class more, which its row takes to be as frequent as its particles count beside all others."""
    shares = (*((1 - OWN_SHARE) * card.trained_shares).tolist(), OWN_SHARE)
    return replace(card, class_names=(*card.class_names, name), class_shares=shares)


def known_features(reference: NoveltyReference, length: float) -> Tensor:
    """What the last layer sees of the known particles whose directions the novelty reference keeps, (m, e), for embeddings of that length."""
    directions = np.linalg.solve(reference.whitening.astype(np.float64), reference.sample.astype(np.float64).T).T
    return F.relu(torch.from_numpy(length * directions))


def fit_row(own: Tensor, others: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A row (e,) and an offset of the last layer for a new class; the old rows stay.

    Minimises the cross-entropy of "the new class or any of the old ones" over particles of the new class, which count for `OWN_SHARE`, and others,
    whatever these are. The new row is drawn to the mean of the old ones, from which no class gains.

    Parameters
    ----------
    own, others : (n, e) and (m, e), inputs of the last layer
    weight, bias : (k, e) and (k,), of the old classes
    """
    start = weight.mean(0)
    features = torch.cat([own, others])
    is_new = torch.cat([torch.ones(len(own)), torch.zeros(len(others))]).double()
    share = torch.cat([torch.full((len(part),), total / len(part)) for part, total in ((own, OWN_SHARE), (others, 1 - OWN_SHARE))]).double()
    old = (features @ weight.T + bias).logsumexp(1)
    row, offset = start.clone().requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([row, offset], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        errors = F.binary_cross_entropy_with_logits(features @ row + offset - old, is_new, reduction="none")
        total: Tensor = (share * errors).sum() + DECAY * ((row - start) ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return row.detach(), offset.detach()
