"""The weights of a trained model as the start of another network: of all that both know."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from triptych.errors import InputError
from triptych.recognition.model import load_model
from triptych.recognition.network import Network

CLASS_HEAD, PICK_HEAD = "classify.", "to_picks."
logger = logging.getLogger(__name__)


def load_initial(network: Network, class_names: tuple[str, ...], label_names: tuple[str, ...], folder: Path) -> None:
    """Start from another model's weights; the heads that name things only where the names are the same."""
    initial = load_model(folder, device="cpu")
    theirs = initial.card.network
    sizes = f"tasks {list(theirs.tasks)}, channels {list(theirs.channels)}, blocks {list(theirs.blocks)}, embedding_size {theirs.embedding_size}"
    what = f"the network of {folder} has {sizes}, which do not fit the settings"
    if theirs.spectrum != network.spectrum:
        text = "the network of %s was trained with network.spectrum=%s, this one sees other data: it has to learn much anew"
        logger.warning(text, folder, theirs.spectrum)
    keeps_class = "class" in network.tasks and initial.card.class_names == class_names
    keeps_pick = "pick" in network.tasks and initial.card.label_names == label_names
    new = (*(() if keeps_class else (CLASS_HEAD,)), *(() if keeps_pick else (PICK_HEAD,)))
    state = {name: tensor for name, tensor in initial.network.state_dict().items() if not name.startswith(new)}
    try:
        missing, unexpected = network.load_state_dict(state | initial_maps(network, initial.network), strict=False)
    except RuntimeError as error:
        raise InputError(f"{what}: give it the same network settings") from error
    if unexpected or any(not name.startswith((CLASS_HEAD, PICK_HEAD)) for name in missing):
        raise InputError(f"{what}: give it the same network settings")


def initial_maps(network: Network, initial: Network) -> dict[str, Tensor]:
    """The weights of the head of maps: those of `initial` for each map that it knows, the network's own for any other."""
    if not network.maps or not initial.maps:
        return {}
    state = {f"to_maps.{name}": tensor.clone() for name, tensor in network.to_maps.state_dict().items()}
    for name, tensor in initial.to_maps.state_dict().items():
        for task in set(network.maps) & set(initial.maps):
            state[f"to_maps.{name}"][network.map_channels(task)] = tensor[initial.map_channels(task)]
    return state
