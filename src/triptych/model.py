"""The network, and the folder in which a trained one is kept.

One encoder looks at the subtomogram at 1/2, 1/4 and 1/8 of its resolution; one decoder leads back to 1/2 with skips; the
heads share both. Full resolution exists only at the two ends: the input's 2 x 2 x 2 neighbours enter as eight channels and
the outputs leave as eight channels per voxel map (Shi et al. 2016, "sub-voxel" convolution), which is several times cheaper
than convolutions at full resolution.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from triptych import __version__
from triptych.config import DEFAULT_CONTRAST, Contrast, NetworkConfig, Settings
from triptych.contrast import CONTRAST_SAMPLE, OTHER, contrast_warning, guess_contrast
from triptych.errors import InputError, first_line
from triptych.fourier import resample_back, resample_to_box
from triptych.io.files import read_json
from triptych.io.manifest import hash_file, output_folder, read_manifest, write_manifest
from triptych.novelty import (
    NOVELTY_FILE,
    NoveltyReference,
    NoveltyRule,
    Traits,
    give_verdicts,
    load_reference,
    radial_profile,
    read_rule,
    save_reference,
    score_novelty,
)
from triptych.parallel import available_cores
from triptych.volume import MAX_BOX, Volume, standardise

logger = logging.getLogger(__name__)

MASK_LEVEL = 0.5
"""A voxel belongs to the particle from this probability on."""
COARSEST = 1.5
"""Times the model's voxel size: the input's may be so large."""
WEIGHTS = "weights.safetensors"
BUILT_IN_MODEL = Path(__file__).parent / "data" / "models" / "base"
HALF_TURNS = ((), (-3, -2), (-3, -1), (-2, -1))
"""Pairs of flipped axes: the identity and the 180° turns about x, y and z. They keep the missing wedge and the hand."""


class PickOutput(NamedTuple):
    """What the network says of tiles.

    Attributes
    ----------
    foreground_logits : (t, d, h, w), what is no background
    label_logits : (t, labels, d/2, h/2, w/2), what it is
    centre_logits : (t, d/2, h/2, w/2), where particles have their centres
    """

    foreground_logits: Tensor
    label_logits: Tensor
    centre_logits: Tensor


class TaskOutput(NamedTuple):
    """What the network says; a task that is switched off is None.

    Attributes
    ----------
    class_logits : (b, classes)
    mask_logits : (b, d, h, w)
    density : (b, d, h, w), dimensionless: protein about 1, background 0
    embedding : (b, e)
    pick : of the tiles that came along
    """

    class_logits: Tensor | None
    mask_logits: Tensor | None
    density: Tensor | None
    embedding: Tensor
    pick: PickOutput | None = None


class Features(NamedTuple):
    """What the heads share: the encoder at 1/4 and 1/8 of the resolution, the decoder at 1/4 and 1/2."""

    x2: Tensor
    x3: Tensor
    y2: Tensor | None
    y1: Tensor | None

    def part(self, rows: slice) -> Features:
        return Features._make(None if x is None else x[rows] for x in self)


def space_to_depth(x: Tensor) -> Tensor:
    """(b, c, 2d, 2h, 2w) -> (b, 8c, d, h, w)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, d // 2, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """(b, 8c, d, h, w) -> (b, c, 2d, 2h, 2w), the inverse of `space_to_depth`."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


def radius_map(size: torch.Size, stride: int, device: torch.device) -> Tensor:
    """Distance of each cell of `stride` voxels from the centre of the box, in units of 10 cells, shape (1, 1, d, h, w)."""
    d, h, w = (torch.arange(n, device=device, dtype=torch.float32) - (n * stride // 2) / stride for n in size[-3:])
    return torch.sqrt(d[:, None, None] ** 2 + h[:, None] ** 2 + w**2)[None, None] / 10


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions with batch normalisation around a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU())


class AttentionPool(nn.Module):
    """Several weighted means over the voxels; each head learns where to look."""

    def __init__(self, channels: int, heads: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.score = nn.Conv3d(channels + 1, heads, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, d, h, w) -> (b, heads * c)."""
        radius = radius_map(x.shape, self.stride, x.device).to(x.dtype).expand(len(x), -1, -1, -1, -1)
        weights = self.score(torch.cat([x, radius], 1)).flatten(2).float().softmax(-1).to(x.dtype)
        return torch.einsum("bhn,bcn->bhc", weights, x.flatten(2)).flatten(1)


class Network(nn.Module):
    """Shared encoder and decoder with a head for each task.

    Parameters
    ----------
    config : NetworkConfig
    classes : number of classes
    labels : number of labels of a label map, without the background; for the task pick
    """

    def __init__(self, config: NetworkConfig, classes: int, labels: int = 0) -> None:
        super().__init__()
        self.tasks = config.tasks
        c1, c2, c3 = config.channels
        b1, b2, b3 = config.blocks
        self.stem = convolution(8 + 1, c1)
        self.level1 = nn.Sequential(*(ResidualBlock(c1) for _ in range(b1)))
        self.down1 = convolution(c1, c2, stride=2)
        self.level2 = nn.Sequential(*(ResidualBlock(c2) for _ in range(b2)))
        self.down2 = convolution(c2, c3, stride=2)
        self.level3 = nn.Sequential(*(ResidualBlock(c3) for _ in range(b3)))

        pooled = 2 * c3 + 2 * c2
        self.maps = tuple(task for task in ("mask", "density") if task in config.tasks)
        self.decodes = bool(self.maps) or "pick" in config.tasks
        if self.decodes:
            self.up2 = nn.Conv3d(c3, c2, 1)
            self.merge2 = nn.Sequential(convolution(2 * c2, c2), ResidualBlock(c2))
            self.up1 = nn.Conv3d(c2, c1, 1)
            self.merge1 = nn.Sequential(convolution(2 * c1, c1), ResidualBlock(c1))
        if self.maps:
            self.to_maps = nn.Conv3d(c1, 8 * len(self.maps), 3, padding=1)
        if "pick" in config.tasks:
            self.to_picks = nn.Conv3d(c1, 8 + labels + 1, 3, padding=1)
        if "mask" in self.maps:
            pooled += c2
        self.pool3 = AttentionPool(c3, heads=2, stride=8)
        self.pool2 = AttentionPool(c2, heads=2, stride=4)
        self.embed = nn.Sequential(nn.Linear(pooled, config.embedding_size), nn.BatchNorm1d(config.embedding_size))
        if "class" in config.tasks:
            self.classify = nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.embedding_size, classes))

    @property
    def shared_weight(self) -> Tensor:
        """The deepest weights that every task uses: the last convolution at 1/4."""
        return self.level2[-1].conv2.weight  # type: ignore[union-attr, return-value]

    def map_channels(self, task: str) -> slice:
        """Where the voxels of a map leave the head of maps."""
        first = 8 * self.maps.index(task)
        return slice(first, first + 8)

    def forward(self, subtomograms: Tensor, tiles: Tensor | None = None) -> TaskOutput:
        """Standardised subtomograms, and perhaps tiles, protein bright, (b, d, h, w); each side a multiple of 8 -> TaskOutput."""
        count = len(subtomograms)
        if tiles is None:
            return self.centred(self.features(subtomograms, count))
        features = self.features(torch.cat([subtomograms, tiles]), count)
        return self.centred(features.part(slice(count)))._replace(pick=self.picked(features.part(slice(count, None))))

    def scan(self, tiles: Tensor) -> PickOutput:
        """Standardised tiles of a tomogram, protein bright, (t, d, h, w); each side a multiple of 8 -> PickOutput."""
        return self.picked(self.features(tiles, 0))

    def features(self, boxes: Tensor, centred: int) -> Features:
        """The trunk. The first `centred` boxes are told how far each voxel is from the centre; in the others no place is special."""
        x = space_to_depth(boxes[:, None])
        radius = radius_map(x.shape, 2, x.device).to(x.dtype)
        is_centred = (torch.arange(len(x), device=x.device) < centred).to(x.dtype)
        x = torch.cat([x, radius * is_centred[:, None, None, None, None]], 1).to(memory_format=torch.channels_last_3d)
        x1 = self.level1(self.stem(x))
        x2 = self.level2(self.down1(x1))
        x3 = self.level3(self.down2(x2))
        if not self.decodes:
            return Features(x2, x3, None, None)
        up2 = F.interpolate(self.up2(x3), scale_factor=2.0)
        y2 = self.merge2(torch.cat([x2, up2], 1))
        up1 = F.interpolate(self.up1(y2), scale_factor=2.0)
        return Features(x2, x3, y2, self.merge1(torch.cat([x1, up1], 1)))

    def centred(self, features: Features) -> TaskOutput:
        """The heads that speak of the particle in the middle."""
        pooled = [self.pool3(features.x3), self.pool2(features.x2)]
        mask_logits = density = None
        if self.maps:
            maps = dict(zip(self.maps, depth_to_space(self.to_maps(features.y1)).unbind(1), strict=True))
            mask_logits, density = maps.get("mask"), maps.get("density")
            if mask_logits is not None and features.y2 is not None:
                pooled.append(pool_within(mask_logits, features.y2))
        embedding = self.embed(torch.cat(pooled, 1))
        class_logits = self.classify(embedding) if "class" in self.tasks else None
        return TaskOutput(class_logits, mask_logits, density, embedding)

    def picked(self, features: Features) -> PickOutput:
        """The head that speaks of everything that is there."""
        maps = self.to_picks(features.y1)
        return PickOutput(depth_to_space(maps[:, :8])[:, 0], maps[:, 8:-1], maps[:, -1])


def pool_within(mask_logits: Tensor, features: Tensor) -> Tensor:
    """Mean of the features within the predicted mask: the class head looks where the mask head found the particle.

    mask_logits (b, 4d, 4h, 4w), features (b, c, d, h, w) -> (b, c)
    """
    share = F.avg_pool3d(mask_logits.sigmoid()[:, None], 4)
    weights = share / (share.sum((-3, -2, -1), keepdim=True) + 1)
    return (features * weights).sum((-3, -2, -1))


def choose_device(device: str) -> torch.device:
    """'auto', 'cpu', 'gpu' or 'gpu:1' -> torch device; InputError where a GPU was asked for that is not there."""
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "gpu" and count == 0:
        raise InputError(f"device is '{device}', but torch sees no CUDA GPU: install a CUDA build of torch, or set device=cpu")
    if number and int(number) >= count:
        raise InputError(f"device is '{device}', but torch sees {count} GPU{'s' if count > 1 else ''}, numbered from 0: set another number")
    return torch.device("cuda", int(number or 0)) if count else torch.device("cpu")


def share_cores(workers: int) -> None:
    """Compute with this process's share of the CPU cores, where several work side by side (0: one per core)."""
    if workers != 1:
        torch.set_num_threads(max(1, available_cores() // (workers or available_cores())))


def name_device(device: torch.device) -> str:
    """What people call a device."""
    if device.type == "cuda":
        number = f" (gpu:{device.index or 0})" if torch.cuda.device_count() > 1 else ""
        return torch.cuda.get_device_name(device) + number
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """'auto' -> bfloat16 where the device computes in it, else float32."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


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
    novelty : (n,) float32 from 0 to 1, from 1/2 on a particle is of none of the classes; None without a novelty reference
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32] | None
    masks: list[NDArray[np.float32]] | None
    densities: list[NDArray[np.float32]] | None
    embedding: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None

    @property
    def classes(self) -> list[str]:
        """Most probable class of each subtomogram."""
        if self.probabilities is None:
            raise InputError("this model was trained without the class task, so it names no classes")
        return [self.class_names[i] for i in self.probabilities.argmax(1)]

    @property
    def verdicts(self) -> list[str]:
        """Class of each subtomogram, or "unknown" where its novelty says so."""
        if self.novelty is None:
            raise InputError("this model has no novelty reference, so it calls nothing unknown: make one with `triptych calibrate`")
        return give_verdicts(self.classes, self.novelty)


@dataclass(frozen=True)
class ModelCard:
    """What must be known to use the weights (model.json)."""

    network: NetworkConfig
    class_names: tuple[str, ...]
    voxel_size: float
    box_size: int
    contrast: Contrast
    normalisation: str = "mean 0, standard deviation 1 over the box"
    temperature: float = 1.0
    label_names: tuple[str, ...] = ()
    """Of the numbers from 1 in label maps; for the task pick."""
    version: str = __version__

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "network": self.network.model_dump(mode="json")}


class Model:
    """A trained network with all that is needed to use it.

    Parameters
    ----------
    network : Network
    card : ModelCard
    device, precision : as in the settings; 'auto' takes a GPU and bfloat16 where there are
    novelty : what unknown particles are recognised by; older models have none
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

    @torch.inference_mode()
    def run(self, boxes: NDArray[np.float32], half_turns: bool = False) -> TaskOutput:
        """The network's outputs (float32, on the CPU) for standardised boxes (n, d, h, w), protein bright.

        With `half_turns` the outputs are averaged over the four orientations that keep the missing wedge.
        """
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
        mean = [None if part[0] is None else torch.stack(part).mean(0).cpu() for part in zip(*(out[:4] for out in outputs), strict=True)]
        return TaskOutput._make([*mean, None])

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
    def scan(self, tiles: NDArray[np.float32]) -> PickOutput:
        """What is in standardised tiles (t, d, h, w) of a tomogram, protein bright; float32, on the CPU."""
        if "pick" not in self.card.network.tasks:
            raise InputError("this model was trained without the task pick: train one with network.tasks=[class, mask, density, pick]")
        x = torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32)).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            try:
                out = self.network.scan(x)
            except torch.OutOfMemoryError as error:
                what = f"the memory of {self.device_name} is too small for tiles of {' x '.join(map(str, x.shape[1:]))} voxels ({first_line(error)})"
                raise InputError(f"{what}: set a smaller tile_size, or device=cpu") from error
        return PickOutput._make(maps.float().cpu() for maps in out)

    def _run_turned(self, x: Tensor, axes: tuple[int, ...]) -> TaskOutput:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            out = self.network(turn(x, axes))
        mask_logits, density = (None if m is None else turn(m.float(), axes) for m in (out.mask_logits, out.density))
        logits = None if out.class_logits is None else out.class_logits.float()
        return TaskOutput(logits, mask_logits, density, out.embedding.float())

    def probabilities(self, class_logits: Tensor) -> NDArray[np.float32]:
        """Calibrated class probabilities (n, classes)."""
        return np.asarray((class_logits / self.card.temperature).softmax(-1), dtype=np.float32)

    def predict(
        self,
        volumes: Volume | NDArray[np.float32] | list[Volume],
        voxel_size: float | None = None,
        contrast: Contrast = DEFAULT_CONTRAST,
        half_turns: bool = False,
        batch_size: int = 16,
    ) -> Predictions:
        """Classify, segment and recover subtomograms of any voxel size and box.

        Parameters
        ----------
        volumes : array (n, nz, ny, nx) or (nz, ny, nx), a Volume, or a list of Volumes
        voxel_size : Å, needed with arrays
        contrast : 'bright' if particles have high values, 'dark' if low, as in most tomograms; a warning is logged if they look otherwise
        """
        items = as_volumes(volumes, voxel_size)
        warning = contrast_warning(guess_contrast(items[:CONTRAST_SAMPLE]), contrast)
        if warning:
            logger.warning("%s; if they are, say contrast='%s'", warning, OTHER[contrast])
        parts = [self.predict_batch(items[i : i + batch_size], contrast, half_turns) for i in range(0, len(items), batch_size)]
        if not parts:
            raise InputError("no volumes came; give at least one subtomogram")
        return Predictions(
            self.card.class_names,
            None if parts[0].probabilities is None else np.concatenate([p.probabilities for p in parts if p.probabilities is not None]),
            None if parts[0].masks is None else [m for p in parts for m in p.masks or []],
            None if parts[0].densities is None else [d for p in parts for d in p.densities or []],
            np.concatenate([p.embedding for p in parts]),
            None if parts[0].novelty is None else np.concatenate([p.novelty for p in parts if p.novelty is not None]),
        )

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
            None if self.novelty is None else score_novelty(self.novelty, traits(out, self.novelty.rule.score == "density")),
        )

    def check_voxel_size(self, voxel_size: float, name: str) -> None:
        """Log a warning if voxels of `voxel_size` Å cannot hold the detail that the model was trained on."""
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
        stage: str = "train",
        arguments: dict[str, object] | None = None,
    ) -> Path:
        """Write weights.safetensors, model.json, perhaps novelty.safetensors, manifest.json and further texts by name into a new folder."""
        with output_folder(folder) as part:
            # Half precision: the network computes in bfloat16, which keeps fewer digits, and the folder is half the size.
            tensors = {name: half(tensor.detach().cpu().contiguous()) for name, tensor in self.network.state_dict().items()}
            (part / WEIGHTS).write_bytes(save(tensors))  # by Python, which says when a disk is full
            (part / "model.json").write_text(json.dumps(self.describe(), indent=2) + "\n")
            names = [WEIGHTS, "model.json"]
            if self.novelty is not None:
                names.append(save_reference(self.novelty, part).name)
            for name, text in (texts or {}).items():
                (part / name).write_text(text, encoding="utf-8")
            hashes = {name: hash_file(part / name) for name in names}
            write_manifest(part, stage, config, inputs, seed, {"files": hashes, **(extra or {})}, arguments)
        return folder


def traits(output: TaskOutput, with_profile: bool = True) -> Traits:
    """What the novelty is judged by, of a network with the class task; the profile of the density, which takes a while, only on demand."""
    if output.class_logits is None:
        raise InputError("the novelty is judged by a model's classes, but this one was trained without the class task")
    profile = np.empty((len(output.embedding), 0), np.float32)
    if with_profile and output.density is not None:
        profile = radial_profile(output.density.numpy())
    return Traits(output.embedding.numpy(), output.class_logits.numpy(), profile)


def half(tensor: Tensor) -> Tensor:
    """Weights as float16; what is no matrix (normalisation, counters) as it is."""
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def turn(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A 180° turn of the last three axes (flip of two of them) that keeps index n // 2 in place.

    A plain flip of an even axis maps index i to n - 1 - i; rolling by one maps i to n - i, so that the centre stays.
    """
    if not axes:
        return x
    return torch.roll(torch.flip(x, axes), [1 - x.shape[axis] % 2 for axis in axes], axes)


def as_volumes(volumes: Volume | NDArray[np.float32] | list[Volume], voxel_size: float | None) -> list[Volume]:
    """Whatever a caller has -> list of Volumes."""
    if isinstance(volumes, Volume):
        return [volumes]
    if isinstance(volumes, list):
        return volumes
    array = np.asarray(volumes, dtype=np.float32)
    if array.ndim not in (3, 4):
        raise InputError(f"volumes of shape {array.shape} came; expected (n, nz, ny, nx) or (nz, ny, nx)")
    if voxel_size is None:
        raise InputError("an array does not say its voxel size: give voxel_size in Å")
    return [Volume(v, voxel_size) for v in (array if array.ndim == 4 else array[None])]


def load_model(folder: Path | str | None = None, device: str = "auto", precision: str = "auto") -> Model:
    """Load a model folder; default: the model that ships with the package.

    Runs no code from the folder: weights are safetensors, the rest is JSON, and both are checked against the hashes in the manifest.
    """
    folder = BUILT_IN_MODEL if folder is None else Path(folder)
    if not folder.is_dir():
        raise InputError(f"the model folder {folder} does not exist: give a folder that `triptych train` wrote")
    for name in ("model.json", WEIGHTS, "manifest.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a complete model folder: {name} is missing; give a folder that `triptych train` wrote")
    check_hashes(folder)
    card, rule = read_card(folder / "model.json")
    with torch.device("meta"):  # nothing is allocated for what model.json says before the weights agree with it
        network = Network(card.network, len(card.class_names), len(card.label_names))
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    try:
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict({name: tensor.to(types.get(name)) for name, tensor in weights.items()}, strict=True, assign=True)
    except (RuntimeError, SafetensorError) as error:
        what = f"the weights in {folder} do not fit its model.json ({first_line(error)})"
        raise InputError(f"{what}; use the folder as `triptych train` wrote it") from error
    novelty = None if rule is None else load_reference(folder, rule, len(card.class_names), card.network.embedding_size)
    if novelty is None and "class" in card.network.tasks:
        logger.warning("the model %s has no novelty reference: nothing is called unknown (`triptych calibrate` makes one)", folder)
    return Model(network, card, device, precision, novelty)


def check_hashes(folder: Path) -> None:
    """InputError unless every file that the manifest lists has the hash it had when it was written."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict) or not {WEIGHTS, "model.json"} <= set(files):
        raise InputError(f"the manifest.json in {folder} lists no file hashes; use the folder as `triptych train` wrote it")
    for name in (WEIGHTS, "model.json", NOVELTY_FILE):
        if not (name in files or (folder / name).exists()):
            continue
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a complete model folder: {name} is missing; use the folder as triptych wrote it")
        if hash_file(folder / name) != files.get(name):
            raise InputError(f"{folder / name} was altered after training (its hash is not the manifest's); use it as `triptych train` wrote it")


def check_same_model(folder: Path, found: str, wanted: str) -> None:
    """InputError where the hash of a model's weights on this machine is not that of the model with which a run was started."""
    if found != wanted:
        what = f"the model {folder} on {platform.node()} is not the one that the run was started with"
        raise InputError(f"{what}: install the same triptych on every machine, and let all of them see the same model folder")


def read_card(path: Path) -> tuple[ModelCard, NoveltyRule | None]:
    """model.json -> ModelCard, and how unknown particles are recognised; None in the folder of an older model."""
    try:
        fields = read_json(path, "model card")
        novelty = fields.pop("novelty", None)
        rule = None if novelty is None else read_rule(novelty)
        network = NetworkConfig(**fields.pop("network"))
        card = ModelCard(network=network, **{**fields, **{name: tuple(fields.get(name, ())) for name in ("class_names", "label_names")}})
        wrong = what_is_wrong(card)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a model.json that triptych {__version__} understands ({first_line(error)})") from error
    if wrong is not None:
        raise InputError(f"{path} states {wrong} = {getattr(card, wrong)!r}, which makes no sense; use the folder as `triptych train` wrote it")
    return card, rule


def what_is_wrong(card: ModelCard) -> str | None:
    """The first field of a card whose value is not possible."""
    checks = {
        "class_names": bool(card.class_names) and all(isinstance(name, str) for name in card.class_names),
        "label_names": all(isinstance(name, str) for name in card.label_names),
        "voxel_size": 0 < card.voxel_size < math.inf,
        "box_size": type(card.box_size) is int and card.box_size in range(8, MAX_BOX + 1, 8),
        "contrast": card.contrast in get_args(Contrast),
        "temperature": 0 < card.temperature < math.inf,
    }
    return next((name for name, is_right in checks.items() if not is_right), None)
