"""A trained network, and the folder in which it is kept."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from triptych import __version__
from triptych.config import DEFAULT_CONTRAST, Contrast, NetworkConfig, Settings
from triptych.contrast import CONTRAST_SAMPLE, OTHER, contrast_warning, guess_contrast
from triptych.device import choose_device, choose_precision, name_device
from triptych.errors import InputError, first_line
from triptych.fourier import resample_back, resample_to_box
from triptych.io.files import read_json
from triptych.io.manifest import Stage, hash_file, read_manifest, write_manifest
from triptych.io.mrc import LARGEST_VALUE, are_valid
from triptych.io.output_names import CARD, MANIFEST, NOVELTY, WEIGHTS
from triptych.io.outputs import output_folder
from triptych.parallel import in_batches
from triptych.recognition.class_shares import estimate_shares, reweigh
from triptych.recognition.density_shape import describe_shapes
from triptych.recognition.fidelity import Fidelity, describe_recovery, read_fidelity
from triptych.recognition.network import HALF_TURNS, Exportable, Network, PickOutput, TaskOutput, turn
from triptych.recognition.novelty import (
    THRESHOLD,
    NoveltyReference,
    NoveltyRule,
    Traits,
    give_verdicts,
    load_reference,
    novelty_by_class,
    read_rule,
    save_reference,
)
from triptych.recognition.temperature import Temperature
from triptych.volume import MAX_BOX, Volume, Volumes, as_volumes, standardise

logger = logging.getLogger(__name__)

MASK_LEVEL = 0.5
"""A voxel belongs to the particle from this probability on."""
LONGEST_VALUE = 120
"""Characters of a wrong value that are shown."""
COARSEST, HOPELESS = 1.5, 5.0
"""Times the model's voxel size: the input's may be so large."""
NEW_HEAD = (
    "for a head of other classes make a model anew, "
    "Model(network, dataclasses.replace(model.card, class_names=..., class_shares=(), temperature=Temperature(), fidelity=None))"
)
BUILT_IN_MODEL = Path(__file__).parents[1] / "data" / "models" / "base"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of n subtomograms, at the size and voxel size in which they came.

    Attributes
    ----------
    class_names : names of the columns of `probabilities`
    probabilities : (n, classes) float32, calibrated; None without the class task
    masks : list of n float32 arrays, probability of each voxel; None without the mask task
    densities : list of n float32 arrays, dimensionless (protein about 1); None without the density task
    embedding : (n, e) float32
    novelty_by_class : (n, classes) float32, what the novelty is if a particle is called each of the classes; None without a novelty reference
    fidelity : (n,) float32, correlation with the true density that the recovered one is expected to have; None where the model does not tell
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32] | None
    masks: list[NDArray[np.float32]] | None
    densities: list[NDArray[np.float32]] | None
    embedding: NDArray[np.float32]
    novelty_by_class: NDArray[np.float32] | None = None
    fidelity: NDArray[np.float32] | None = None

    @property
    def classes(self) -> list[str]:
        """Most probable class of each subtomogram."""
        if self.probabilities is None:
            raise InputError("this model was trained without the class task, so it names no classes")
        return [self.class_names[i] for i in self.probabilities.argmax(1)]

    @property
    def novelty(self) -> NDArray[np.float32] | None:
        """(n,) from 0 to 1, from 1/2 on a particle is of none of the classes; None without a novelty reference."""
        if self.novelty_by_class is None or self.probabilities is None:
            return None
        novelty: NDArray[np.float32] = self.novelty_by_class[np.arange(len(self.probabilities)), self.probabilities.argmax(1)]
        return novelty

    @property
    def verdicts(self) -> list[str]:
        """Class of each subtomogram, or "unknown" where its novelty says so."""
        if self.novelty is None:
            raise InputError("this model has no novelty reference, so it calls nothing unknown: make one with `triptych calibrate`")
        return give_verdicts(self.classes, self.novelty)


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """What a model says of some subtomograms and of others as one."""
    joined: dict[str, Any] = {}
    for name, first in vars(parts[0]).items():
        values = [getattr(part, name) for part in parts]
        if isinstance(first, list):
            joined[name] = list(chain.from_iterable(values))
        elif isinstance(first, np.ndarray):
            joined[name] = np.concatenate(values)
    return replace(parts[0], **joined)


@dataclass(frozen=True)
class ModelCard:
    """What must be known to use the weights (model.json)."""

    network: NetworkConfig
    class_names: tuple[str, ...]
    voxel_size: float
    box_size: int
    contrast: Contrast
    normalisation: str = "mean 0, standard deviation 1 over the box"
    temperature: Temperature = field(default_factory=Temperature)
    label_names: tuple[str, ...] = ()
    """Of the numbers from 1 in label maps; for the task pick."""
    class_shares: tuple[float, ...] = ()
    """Of each class in the training data; empty where they are not known."""
    fidelity: Fidelity | None = None
    """What is expected of recovered densities; None where that was not fitted."""
    version: str = __version__

    @property
    def numbered_names(self) -> tuple[str, ...]:
        """What the numbers that are written stand for, from 1: the classes, then what else label maps show, such as membranes."""
        return (*self.class_names, *(name for name in self.label_names if name not in self.class_names))

    @property
    def trained_shares(self) -> NDArray[np.float64]:
        """(classes,), of each class in the training data; all the same where that is not known."""
        return np.array(self.class_shares or [1 / len(self.class_names)] * len(self.class_names))

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "network": self.network.model_dump(mode="json")}


class Model:
    """A trained network with all that is needed to use it.

    Parameters
    ----------
    network : Network
    card : ModelCard
    device, precision : as in the settings; 'auto' takes a GPU and bfloat16 where there are
    novelty : what unknown particles are recognised by; None: nothing is called unknown
    """

    def __init__(
        self, network: Network, card: ModelCard, device: str = "auto", precision: str = "auto", novelty: NoveltyReference | None = None
    ) -> None:
        self.card, self.novelty = card, novelty
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.most_boxes = sys.maxsize  # at once; fewer after the device's memory has proved too small for more
        self.network = network.eval().to(self.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def device_name(self) -> str:
        """What people call the device, such as "CPU, 2 threads"."""
        return name_device(self.device)

    def describe(self) -> dict[str, object]:
        """The card, and how unknown particles are recognised: what stands in model.json."""
        return {**self.card.to_json(), "novelty": None if self.novelty is None else asdict(self.novelty.rule)}

    def exportable(self) -> Exportable:
        """A module around the network, on the model's device, that takes standardised boxes (b, d, h, w), protein bright, and gives a dictionary
        of tensors (`TaskOutput`'s fields, without those of other tasks): what torch.export can save, with any number of boxes."""
        return Exportable(self.network).eval()

    @torch.inference_mode()
    def run(self, boxes: NDArray[np.float32], half_turns: bool = False) -> TaskOutput:
        """The network's outputs (float32, on the CPU) for standardised boxes (n, d, h, w), protein bright.

        With `half_turns` the outputs are averaged over the four orientations that keep the missing wedge.
        """
        self.network.eval()  # whoever has trained it further may have left it in training, where batches change it
        parts, done = [], 0
        while done < len(boxes):
            some = boxes[done : done + self.most_boxes]
            try:
                parts.append(self._run_some(some, half_turns))
            except torch.OutOfMemoryError as error:
                self._take_fewer(len(some), error)
                continue
            done += len(some)
        return TaskOutput._make(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True))

    def _run_some(self, boxes: NDArray[np.float32], half_turns: bool) -> TaskOutput:
        """`run` for boxes that are on the device at once."""
        x = torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.float32)).to(self.device)
        turns = HALF_TURNS if half_turns else HALF_TURNS[:1]
        outputs = [self._run_turned(x, axes) for axes in turns]
        return TaskOutput._make(None if part[0] is None else torch.stack(part).mean(0).cpu() for part in zip(*outputs, strict=True))

    def _take_fewer(self, count: int, error: torch.OutOfMemoryError) -> None:
        """Halve the number of boxes that are run at once, from now on; InputError where not even one fits."""
        if count == 1:
            raise InputError(
                f"the memory of {self.device_name} is too small for a single box ({first_line(error)}): free it of other programs, or set device=cpu"
            ) from error
        self.most_boxes = count // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("the memory of %s is too small for %d boxes at once: going on with %d", self.device_name, count, self.most_boxes)

    @torch.inference_mode()
    def scan(self, tiles: NDArray[np.float32], half_turns: bool = False) -> PickOutput:
        """What is in standardised tiles (t, d, h, w) of a tomogram, protein bright; float32, on the CPU.

        With `half_turns` the outputs are averaged over the four orientations that keep the missing wedge.
        """
        if "pick" not in self.card.network.tasks:
            raise InputError("this model was trained without the task pick: train one with network.tasks=[class, mask, density, pick]")
        self.network.eval()
        x = torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32)).to(self.device)
        try:
            outputs = [self._scan_flipped(x, axes) for axes in (HALF_TURNS if half_turns else HALF_TURNS[:1])]
        except torch.OutOfMemoryError as error:
            what = f"the memory of {self.device_name} is too small for tiles of {' x '.join(map(str, x.shape[1:]))} voxels ({first_line(error)})"
            raise InputError(f"{what}: set a smaller tile_size, or device=cpu") from error
        return PickOutput._make(torch.stack(maps).mean(0).cpu() for maps in zip(*outputs, strict=True))

    def _scan_flipped(self, x: Tensor, axes: tuple[int, ...]) -> PickOutput:
        """A tile has no centre that must stay: a plain flip takes cells of several voxels to cells."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            out = self.network.scan(x.flip(axes))
        return PickOutput._make(maps.float().flip(axes) for maps in out)

    def _run_turned(self, x: Tensor, axes: tuple[int, ...]) -> TaskOutput:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            out = self.network(turn(x, axes))
        mask_logits, density = (None if m is None else turn(m.float(), axes) for m in (out.mask_logits, out.density))
        logits = None if out.class_logits is None else out.class_logits.float()
        return TaskOutput(logits, mask_logits, density, out.embedding.float())

    def probabilities(self, class_logits: Tensor) -> NDArray[np.float32]:
        """Calibrated class probabilities (n, classes); InputError where the card does not name the network's classes."""
        if class_logits.shape[1] != len(self.card.class_names):
            raise InputError(f"the network has {class_logits.shape[1]} classes, but its card names {len(self.card.class_names)}: {NEW_HEAD}")
        return np.asarray(self.card.temperature.scale(class_logits).softmax(-1), dtype=np.float32)

    def predict(
        self,
        volumes: Volumes,
        voxel_size: float | None = None,
        contrast: Contrast = DEFAULT_CONTRAST,
        half_turns: bool = False,
        batch_size: int = 16,
    ) -> Predictions:
        """Classify, segment and recover subtomograms of any voxel size and box.

        Parameters
        ----------
        volumes : array (n, nz, ny, nx) or (nz, ny, nx), a Volume, or a list of Volumes or of arrays (nz, ny, nx)
        voxel_size : Å, needed with arrays
        contrast : 'bright' if particles have high values, 'dark' if low, as in most tomograms; a warning is logged if they look otherwise
        half_turns : whether to average over the four orientations that keep the missing wedge, which takes four times as long
        batch_size : subtomograms per forward pass

        Returns
        -------
        Predictions, in the order of the volumes; each mask and density has the shape (nz, ny, nx) and the voxels of its volume
        """
        if np.asarray(batch_size).dtype.kind not in "iu" or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, but must be a whole number above 0")
        items = as_volumes(volumes, voxel_size)
        if not items:
            raise InputError("no volumes came; give at least one subtomogram")
        if contrast not in get_args(Contrast):
            raise InputError(f"contrast is {contrast!r}, but must be one of {', '.join(get_args(Contrast))}: say which the particles are")
        for number, volume in enumerate(items):
            if not are_valid(volume.data).all():
                raise InputError(f"volume {number} holds values that are NaN, infinite or beyond {LARGEST_VALUE:g}: mend or leave it out")
        coarsest = max(range(len(items)), key=lambda number: items[number].voxel_size)
        self.check_voxel_size(items[coarsest].voxel_size, f"volume {coarsest}")
        warning = contrast_warning(guess_contrast(items[:CONTRAST_SAMPLE]), contrast)
        if warning:
            logger.warning("%s; if they are, say contrast='%s'", warning, OTHER[contrast])
        return join_predictions([self.predict_batch(some, contrast, half_turns) for some in in_batches(items, batch_size)])

    def predict_batch(self, volumes: list[Volume], contrast: Contrast, half_turns: bool = False) -> Predictions:
        """`predict` for one batch: bring to the model's grid, run, and bring the maps back."""
        sign = 1.0 if contrast == self.card.contrast else -1.0
        boxes = np.stack([self.prepare(volume, sign) for volume in volumes])
        out = self.run(boxes, half_turns)
        return Predictions(
            self.card.class_names,
            None if out.class_logits is None else self.probabilities(out.class_logits),
            None if out.mask_logits is None else list(self._back(out.mask_logits.sigmoid(), volumes, (0.0, 1.0))),
            None if out.density is None else list(self._back(out.density, volumes, (-np.inf, np.inf))),
            np.asarray(out.embedding),
            None if self.novelty is None else novelty_by_class(self.novelty, traits(out, self.novelty.rule.score == "density")),
            self.expect_fidelity(out),
        )

    def expect_fidelity(self, out: TaskOutput) -> NDArray[np.float32] | None:
        """Correlation with the true density that each recovered one is expected to have (n,); None where the model does not tell."""
        if self.card.fidelity is None or out.density is None:
            return None
        return self.card.fidelity.expect(describe_recovery(out.density, out.mask_logits))

    def estimate_shares(self, found: Predictions) -> NDArray[np.float64]:
        """How frequent the classes are (classes,) among particles, as their predictions together suggest.

        Particles that are called unknown have no say: they are of none of the classes.
        """
        if found.probabilities is None:
            raise InputError("this model was trained without the class task, so it cannot tell how frequent the classes are")
        known = np.ones(len(found.probabilities), bool) if found.novelty is None else found.novelty < THRESHOLD
        return estimate_shares(found.probabilities[known], self.card.trained_shares)

    def reweigh(self, found: Predictions, shares: NDArray[np.float64]) -> Predictions:
        """The same predictions where the classes are as frequent as `shares` (classes,): other probabilities, and with them classes and novelty.

        The predictions are to be those of this model as they came: to weigh them twice would count the shares twice.
        """
        if found.probabilities is None or found.class_names != self.card.class_names:
            raise InputError("predictions are weighed by the model that made them, with the class task: these have other classes, or none")
        if np.shape(shares) != (len(found.class_names),) or not are_shares(tuple(shares), len(found.class_names)):
            raise InputError(f"shares must be {len(found.class_names)} numbers above 0 whose sum is 1, as estimate_shares gives them")
        return replace(found, probabilities=reweigh(found.probabilities, self.card.trained_shares, shares).astype(np.float32))

    def check_network(self) -> None:
        """InputError unless the network is the one that the card describes, as a folder has to hold it."""
        own, stated = (
            {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} for network in (self.network, blank_network(self.card))
        )
        for name in sorted(own.keys() | stated.keys()):
            if own.get(name) != stated.get(name):
                shapes = f"{name} of the shape {own.get(name)}, but its card {stated.get(name)}"
                raise InputError(f"the network has {shapes}: {NEW_HEAD}")

    def check_voxel_size(self, voxel_size: float, name: str) -> None:
        """Log a warning if voxels of `voxel_size` Å cannot hold the detail that the model was trained on; InputError where they hold next to none."""
        if voxel_size > HOPELESS * self.card.voxel_size:
            what = f"{name} has {voxel_size:.4g} Å per voxel, but the model was trained at {self.card.voxel_size:.4g} Å"
            raise InputError(f"{what}: give the right voxel_size (--set voxel_size=), or data of finer voxels")
        if voxel_size > COARSEST * self.card.voxel_size:
            text = "%s has %.4g Å per voxel, but the model was trained at %.4g Å: detail that it needs is missing"
            logger.warning(text, name, voxel_size, self.card.voxel_size)

    def prepare(self, volume: Volume, sign: float) -> NDArray[np.float32]:
        """Resample, crop or pad to the model's box, set the contrast sign and standardise."""
        box = resample_to_box(volume, self.card.voxel_size, self.card.box_size)
        return standardise(sign * box)

    def _back(self, maps: Tensor, volumes: list[Volume], limits: tuple[float, float]) -> Iterator[NDArray[np.float32]]:
        for data, volume in zip(np.asarray(maps), volumes, strict=True):
            yield resample_back(data, self.card.voxel_size, volume).clip(*limits)

    def save(
        self,
        folder: Path,
        config: Settings | None,
        inputs: list[Path],
        seed: int | None = None,
        extra: dict[str, object] | None = None,
        texts: dict[str, str] | None = None,
        stage: Stage = "train",
        arguments: dict[str, object] | None = None,
    ) -> Path:
        """Write weights.safetensors, model.json, perhaps novelty.safetensors, manifest.json and further texts by name into a new folder."""
        self.check_network()
        with output_folder(folder) as part:
            # Half precision: the network computes in bfloat16, which keeps fewer digits, and the folder is half the size.
            tensors = {name: half(tensor.detach().cpu().contiguous()) for name, tensor in self.network.state_dict().items()}
            (part / WEIGHTS).write_bytes(save(tensors))  # by Python, which says when a disk is full
            (part / CARD).write_text(json.dumps(self.describe(), indent=2) + "\n")
            names = [WEIGHTS, CARD]
            if self.novelty is not None:
                names.append(save_reference(self.novelty, part).name)
            for name, text in (texts or {}).items():
                (part / name).write_text(text, encoding="utf-8")
            hashes = {name: hash_file(part / name) for name in names}
            write_manifest(part, stage, config, inputs, seed, {"files": hashes, **(extra or {})}, arguments)
        return folder


def traits(output: TaskOutput, with_shape: bool = True) -> Traits:
    """What the novelty is judged by, of a network with the class task; the shape of the density, which takes a while, only on demand."""
    if output.class_logits is None:
        raise InputError("the novelty is judged by a model's classes, but this one was trained without the class task")
    shape = np.empty((len(output.embedding), 0), np.float32)
    if with_shape and output.density is not None:
        shape = describe_shapes(output.density.numpy())
    return Traits(output.embedding.numpy(), output.class_logits.numpy(), shape)


def has_broken(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any of the tensors is not finite as it is kept."""
    return not all(bool(torch.isfinite(half(tensor)).all()) for tensor in tensors.values())


def half(tensor: Tensor) -> Tensor:
    """Weights as float16; what is no matrix (normalisation, counters) as it is."""
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def locate_model(folder: Path | str | None) -> Path:
    """The folder of a model; that of the model which ships with triptych for None, and for its name where nothing else has it."""
    folder = Path(BUILT_IN_MODEL if folder is None else folder)
    return BUILT_IN_MODEL if str(folder) == BUILT_IN_MODEL.name and not folder.exists() else folder


def load_model(folder: Path | str | None = None, device: str = "auto", precision: str = "auto") -> Model:
    """Load a model folder; default: the model that ships with the package, whose name, "base", does as well.

    Runs no code from the folder: weights are safetensors, the rest is JSON, and both are checked against the hashes in the manifest.
    """
    folder = locate_model(folder)
    if not folder.is_dir():
        how = f'a folder that `triptych train` wrote, or "{BUILT_IN_MODEL.name}" for the model that ships with triptych'
        raise InputError(f"the model folder {folder} {'is a file' if folder.exists() else 'does not exist'}: give {how}")
    for name in (CARD, WEIGHTS, MANIFEST):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a complete model folder: {name} is missing; give a folder that `triptych train` wrote")
    check_hashes(folder)
    card, rule = read_card(folder / CARD)
    network = blank_network(card)  # nothing is allocated for what model.json says before the weights agree with it
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    try:
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict({name: tensor.to(types.get(name)) for name, tensor in weights.items()}, strict=True, assign=True)
    except (RuntimeError, SafetensorError) as error:
        what = f"the weights in {folder} do not fit its model.json ({first_line(error)})"
        raise InputError(f"{what}; use the folder as `triptych train` wrote it") from error
    if has_broken(weights):
        raise InputError(f"weights in {folder} are infinite or NaN, as after a training that diverged: train anew with a lower learning_rate")
    novelty = None if rule is None else load_reference(folder, rule, len(card.class_names), card.network.embedding_size)
    if novelty is None and "class" in card.network.tasks:
        logger.warning("the model %s has no novelty reference: nothing is called unknown (`triptych calibrate` makes one)", folder)
    return Model(network, card, device, precision, novelty)


def blank_network(card: ModelCard) -> Network:
    """The network that a card describes, whose weights have shapes and no values."""
    with torch.device("meta"):
        return Network(card.network, len(card.class_names), len(card.label_names))


def check_hashes(folder: Path) -> None:
    """InputError unless every file that the manifest lists has the hash it had when it was written."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict) or not {WEIGHTS, CARD} <= set(files):
        raise InputError(f"the manifest.json in {folder} lists no file hashes; use the folder as `triptych train` wrote it")
    for name in (WEIGHTS, CARD, NOVELTY):
        if not (name in files or (folder / name).exists()):
            continue
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a complete model folder: {name} is missing; use the folder as triptych wrote it")
        if hash_file(folder / name) != files.get(name):
            raise InputError(f"{folder / name} was altered after training (its hash is not the manifest's); use it as `triptych train` wrote it")


def hash_model(folder: Path) -> tuple[str, ...]:
    """Hashes of the files by which a model says what it says, that of the weights first."""
    return tuple(hash_file(folder / name) for name in (WEIGHTS, CARD, NOVELTY) if (folder / name).is_file())


def read_card(path: Path) -> tuple[ModelCard, NoveltyRule | None]:
    """model.json -> ModelCard, and how unknown particles are recognised; None where the model calls nothing unknown."""
    try:
        fields = read_json(path, "model card")
        novelty = fields.pop("novelty", None)
        rule = None if novelty is None else read_rule(novelty)
        network = NetworkConfig(**{"spectrum": "kept", **fields.pop("network")})  # which older models do not state
        fields |= {name: tuple(fields.get(name, ())) for name in ("class_names", "label_names", "class_shares")}
        fidelity = read_fidelity(fields.pop("fidelity", None))
        card = ModelCard(network=network, temperature=Temperature(**fields.pop("temperature")), fidelity=fidelity, **fields)
        wrong = what_is_wrong(card)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is not a model.json that triptych {__version__} understands ({first_line(error)})") from error
    if wrong is not None:
        stated = shorten(repr(getattr(card, wrong)), LONGEST_VALUE, placeholder=" ...")
        raise InputError(f"{path} states {wrong} = {stated}, which makes no sense; use the folder as `triptych train` wrote it")
    return card, rule


def are_shares(shares: tuple[float, ...], classes: int) -> bool:
    """Whether numbers are the shares of so many classes, none of them 0."""
    return len(shares) == classes and min(shares) > 0 and math.isclose(sum(shares), 1, rel_tol=1e-3)


def what_is_wrong(card: ModelCard) -> str | None:
    """The first field of a card whose value is not possible."""
    checks = {
        "class_names": bool(card.class_names) and all(isinstance(name, str) for name in card.class_names),
        "label_names": all(isinstance(name, str) for name in card.label_names),
        "class_shares": not card.class_shares or are_shares(card.class_shares, len(card.class_names)),
        "voxel_size": 0 < card.voxel_size < math.inf,
        "box_size": type(card.box_size) is int and card.box_size in range(8, MAX_BOX + 1, 8),
        "contrast": card.contrast in get_args(Contrast),
        "temperature": card.temperature.is_possible(),
        "fidelity": card.fidelity is None or ("density" in card.network.tasks and card.fidelity.is_possible()),
    }
    return next((name for name, is_right in checks.items() if not is_right), None)
