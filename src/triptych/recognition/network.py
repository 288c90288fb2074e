"""The network: a shared encoder and decoder, and a head for each task.

One encoder looks at the subtomogram at 1/2, 1/4 and 1/8 of its resolution; one decoder leads back to 1/2 with skips; the
heads share both. Full resolution exists only at the two ends: the input's 2 x 2 x 2 neighbours enter as eight channels and
the outputs leave as eight channels per voxel map (Shi et al. 2016, "sub-voxel" convolution), which is several times cheaper
than convolutions at full resolution.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.config import NetworkConfig

HALF_TURNS = ((), (-3, -2), (-3, -1), (-2, -1))
"""Pairs of flipped axes: the identity and the 180° turns about x, y and z. They keep the hand, and the missing wedge
where the tilts reach equally far to both sides; else the turns about x and z mirror it."""

SHELLS = 40
"""Shells in which a box's spectrum is measured, from frequency 0 to 1 / voxel."""
FALL_OFF = 25.0
"""Voxels^2: a B factor of 5,000 Å^2 at voxels of 10 Å, about what real reconstructions have; beyond it there is mostly noise."""
LEAST_POWER = 1e-4
"""What a frequency is taken to have at least, over the strongest one: what a filter has taken away is not brought back as rounding errors."""

NO_POWER = 1e-9
"""What a box without any contrast has, of a standardised one's power."""


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


class Shells(NamedTuple):
    """How the Fourier voxels of a box (d, h, w // 2 + 1) belong to shells of equal width.

    Attributes
    ----------
    place : (d * h * (w // 2 + 1),) radius in shells, a fraction
    nearest : (d * h * (w // 2 + 1),) number of the nearest shell
    counted : (d * h * (w // 2 + 1),) how often the voxel counts: twice where its complex conjugate is left out; the mean counts nowhere
    smoothing : (shells, shells), from the sums over shells to weighted means over neighbouring ones
    """

    place: Tensor
    nearest: Tensor
    counted: Tensor
    smoothing: Tensor


def frequencies(count: int) -> Tensor:
    """Bit for bit ``torch.fft.fftfreq(count)``, which ONNX has no word for."""
    return torch.cat([torch.arange(0, (count + 1) // 2), torch.arange(-(count // 2), 0)]).float() * (1 / count)


@torch.inference_mode(False)
def make_shells(size: tuple[int, int, int], device: torch.device) -> Shells:
    """Shells of a box (d, h, w)."""
    z, y, x = frequencies(size[0]), frequencies(size[1]), frequencies(size[2])[: size[2] // 2 + 1].abs()
    place = (torch.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) * SHELLS).flatten()
    twice = (x > 0) & (x < 0.5)
    counted = (1.0 + twice).expand(size[0], size[1], -1).flatten() * (place > 0)
    shells = torch.arange(math.ceil(SHELLS * math.sqrt(3) / 2) + 2.0)
    nearness = torch.exp(-((shells[:, None] - shells) ** 2) / 2)
    nearest = place.round().long()
    population = torch.zeros(len(shells)).index_add(0, nearest, counted)
    return Shells(*(part.to(device) for part in (place, nearest, counted, nearness / (nearness @ population)[:, None])))


keep_shells = lru_cache(maxsize=16)(make_shells)


def normalise_spectrum(boxes: Tensor) -> Tensor:
    """Boxes (b, d, h, w) whose mean power falls as exp(-FALL_OFF k^2) / k, whatever it was, with mean 0 and standard deviation 1; k in 1 / voxel.

    Detector, dose, CTF correction and filters give each tomogram another balance of coarse and fine; here all get the same, each box by its own
    mean power at each spatial frequency. Phases stay, and amplitudes relative to others at the same frequency.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        size = (boxes.shape[-3], boxes.shape[-2], boxes.shape[-1])
        # What torch.export or torch.compile sees is no tensor to be kept for later calls.
        shells = (make_shells if torch.compiler.is_compiling() else keep_shells)(size, boxes.device)
        waves = torch.fft.rfftn(boxes.float(), dim=(-3, -2, -1))
        sums = torch.zeros(boxes.shape[0], len(shells.smoothing), device=boxes.device)
        sums.index_add_(1, shells.nearest, waves.abs().square().flatten(1) * shells.counted)
        power = sums @ shells.smoothing.T
        power = (power + LEAST_POWER * power.amax(1, keepdim=True)).clamp(min=NO_POWER)
        k = torch.arange(power.shape[1], device=boxes.device).clamp(min=1) / SHELLS
        gain = ((-FALL_OFF * k**2).exp() / k / power).sqrt()
        low = shells.place.long()
        between = shells.place - low
        fine = torch.lerp(gain[:, low], gain[:, low + 1], between) * (shells.place > 0)
        flat = torch.fft.irfftn(waves * fine.view(waves.shape), s=size, dim=(-3, -2, -1))
        deviation = flat.std((-3, -2, -1), correction=0, keepdim=True)
        return torch.where(deviation > 0, flat / deviation, flat)


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


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3^3 convolution, batch normalisation, ReLU."""
    conv = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU())


class AttentionPool(nn.Module):
    """Several weighted means over the voxels; each head learns where to look."""

    def __init__(self, channels: int, heads: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.score = nn.Conv3d(channels + 1, heads, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, d, h, w) -> (b, heads * c)."""
        radius = radius_map(x.shape, self.stride, x.device).to(x.dtype).expand(x.shape[0], -1, -1, -1, -1)
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
        self.spectrum = config.spectrum
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
        count = subtomograms.shape[0]  # which torch.export may leave open, unlike len()
        if tiles is None:
            return self.centred(self.features(subtomograms, count))
        features = self.features(torch.cat([subtomograms, tiles]), count)
        return self.centred(features.part(slice(count)))._replace(pick=self.picked(features.part(slice(count, None))))

    def scan(self, tiles: Tensor) -> PickOutput:
        """Standardised tiles of a tomogram, protein bright, (t, d, h, w); each side a multiple of 8 -> PickOutput."""
        return self.picked(self.features(tiles, 0))

    def features(self, boxes: Tensor, centred: int) -> Features:
        """The trunk. The first `centred` boxes are told how far each voxel is from the centre; in the others no place is special."""
        normalised = {"normalised": boxes.shape[0], "particles": centred, "kept": 0}[self.spectrum]
        if normalised:
            boxes = torch.cat([normalise_spectrum(boxes[:normalised]), boxes[normalised:]])
        x = space_to_depth(boxes[:, None])
        radius = radius_map(x.shape, 2, x.device).to(x.dtype)
        is_centred = (torch.arange(x.shape[0], device=x.device) < centred).to(x.dtype)
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


class Exportable(nn.Module):
    """A network as torch.export can save it: subtomograms (b, d, h, w) -> the outputs that it has, by the names of `TaskOutput`'s fields."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, subtomograms: Tensor) -> dict[str, Tensor]:
        output: TaskOutput = self.network(subtomograms)
        return {name: part for name, part in output._asdict().items() if part is not None}


def pool_within(mask_logits: Tensor, features: Tensor) -> Tensor:
    """Mean of the features within the predicted mask: the class head looks where the mask head found the particle.

    mask_logits (b, 4d, 4h, 4w), features (b, c, d, h, w) -> (b, c)
    """
    share = F.avg_pool3d(mask_logits.sigmoid()[:, None], 4)
    weights = share / (share.sum((-3, -2, -1), keepdim=True) + 1)
    return (features * weights).sum((-3, -2, -1))


def turn(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A 180° turn of the last three axes (flip of two of them) that keeps index n // 2 in place.

    A plain flip of an even axis maps index i to n - 1 - i; rolling by one maps i to n - i, so that the centre stays.
    """
    if not axes:
        return x
    return torch.roll(torch.flip(x, axes), [1 - x.shape[axis] % 2 for axis in axes], axes)
