"""Every setting and its default, once.

The command line takes ``--config FILE`` (YAML) and ``--set key=value``; ``triptych config STAGE`` prints this module's
defaults with their descriptions. Lengths are in Å and angles in degrees unless the name says otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

LEAST_VOXEL_SIZE, LARGEST_VOXEL_SIZE = 0.1, 1000
"""Å; a pixel of no detector is finer, and no tomogram is coarser: such sizes are in another unit, or wrong."""
VoxelSize = Annotated[float, Field(ge=LEAST_VOXEL_SIZE, le=LARGEST_VOXEL_SIZE)]
Range = tuple[float, float]
Tilt = Annotated[float, Field(ge=-90, le=90)]
TiltRange = tuple[Tilt, Tilt]
PositiveRange = tuple[PositiveFloat, PositiveFloat]
NonNegativeRange = tuple[NonNegativeFloat, NonNegativeFloat]
PackedShare = Annotated[float, Field(gt=0, le=0.5)]
PackedRange = tuple[PackedShare, PackedShare]
BeadSize = Annotated[float, Field(gt=0, le=1000)]
BeadRange = tuple[BeadSize, BeadSize]
CountRange = tuple[NonNegativeInt, NonNegativeInt]
LARGEST_SNR = 1e4
"""Of what is kept in half precision, which ends at 65,504."""


def _check_snr(snr: float) -> float:
    if snr > LARGEST_SNR:
        raise ValueError(f"snr is {snr:g}, but at most {LARGEST_SNR:,.0f} was expected: the array `signal` of the dataset is without noise")
    return snr


SnrRange = tuple[Annotated[PositiveFloat, AfterValidator(_check_snr)], Annotated[PositiveFloat, AfterValidator(_check_snr)]]
Share = Annotated[float, Field(ge=0)]
Shift = Annotated[float, Field(ge=0, description="the particle's centre is at most this far from the box's centre along each axis, Å, and half a voxel more, as boxes are cut at whole voxels; less than half the box")]
RANGES: tuple[Any, ...] = (Range, Range | None, TiltRange, TiltRange | None, PositiveRange, PositiveRange | None, SnrRange, SnrRange | None, NonNegativeRange, PackedRange, BeadRange, CountRange)
Task = Literal["class", "mask", "density", "pick"]
CtfCorrection = Literal["none", "phase_flip", "deconvolve", "multiply"]
TiltOrder = Literal["dose_symmetric", "bidirectional", "continuous"]
ASSUMED_TILT_RANGE = (-60.0, 60.0)
"""Lowest and highest tilt, degrees, where nothing states them."""
Precision = Literal["auto", "bfloat16", "float32"]
Arithmetic = Annotated[Precision, Field(description="arithmetic; auto: bfloat16 autocast where the device has it")]
Workers = Annotated[int, Field(ge=0, description="processes on this machine, which share its cores; 0: one per CPU core, with a GPU no more than its memory has room for (3 GiB for each)")]
Smoothing = Literal["none", "low_pass", "wiener"]
Spectrum = Literal["normalised", "particles", "kept"]
Channels = Annotated[int, Field(gt=0, le=4096)]
Blocks = Annotated[int, Field(gt=0, le=64)]
NONE_CLASS = "none"
"""Class of a box without a particle at its centre."""
UNKNOWN = "unknown"
"""Verdict on a particle of a kind that the model has not been trained on."""
NoveltyScore = Literal["probability", "energy", "mahalanobis", "neighbours", "density"]
DEVICE = re.compile(r"auto|cpu|gpu(:\d{1,3})?")


def _check_device(device: str) -> str:
    if not DEVICE.fullmatch(device):
        raise ValueError(f"device is {device!r}, but must be one of auto, cpu, gpu, or gpu:1 for the second of several")
    return device


Device = Annotated[str, AfterValidator(_check_device)]
"""auto: a GPU where there is one."""
RunDevice = Annotated[Device, Field(description="where to run: auto, cpu, gpu, or gpu:1 for the second of several; auto: a GPU where there is one")]
Contrast = Literal["dark", "bright"]
DEFAULT_CONTRAST: Contrast = "dark"
"""Sign of the particles' grey values where nothing states it: low, as in most tomograms."""


def _names_are_text(table: Any) -> Any:
    """Classes that are called by numbers, which YAML reads as such."""
    return {str(name) if type(name) is int else name: value for name, value in table.items()} if isinstance(table, dict) else table


class Settings(BaseModel):
    """Frozen settings that refuse a key they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    MACHINE: ClassVar[frozenset[str]] = frozenset({"device", "workers"})
    """Settings that only say where and how fast: no result depends on them."""

    def decisive(self) -> dict[str, Any]:
        """The settings on which the result depends, as JSON; of groups of settings, too."""
        plain = self.model_dump(mode="json", exclude=set(self.MACHINE))
        return plain | {name: value.decisive() for name, value in self if isinstance(value, Settings)}

    def from_anywhere(self, folder: Path = Path()) -> Self:
        """The same settings with absolute paths, for a process that may work in another folder than the one that relative paths start in."""
        return self.model_copy(update={name: (folder / value).absolute() for name, value in self if isinstance(value, Path)})

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name} is {str(value).lower()}, but is no setting to switch on or off")
        return data

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.annotation in RANGES and value is not None and value[0] > value[1]:
                raise ValueError(f"{name} is a range [low, high], but {value[0]:g} is above {value[1]:g}")
            if isinstance(value, dict) and get_origin(get_args(field.annotation)[0]) is Literal and not sum(value.values()) > 0:
                raise ValueError(f"{name} holds relative frequencies, but none is above 0")
        return self


class SpecimenConfig(Settings):
    """What is in the ice; every range is drawn anew for each tomogram, and what was drawn is recorded."""

    shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(description="tomogram size in voxels, [z, y, x]")] = (104, 320, 320)
    ice_thickness: Annotated[PositiveRange, Field(description="thickness of the ice, Å: particles lie within it, and its electrons are lost; ice may be thicker than the tomogram")] = (1000.0, 2500.0)
    occupancy: Annotated[PackedRange, Field(description="share of the ice's volume that particles fill, log-uniform; there is room for 0.25 to 0.3, and without a gap for about 0.35")] = (0.02, 0.08)
    contact_share: Annotated[float, Field(ge=0, le=1, description="share of the particles that are pushed against a neighbour")] = 0.8
    gap: Annotated[float, Field(ge=0, description="least distance between neighbouring surfaces, Å")] = 10.0
    cytosol: Annotated[NonNegativeRange, Field(description="share of the volume between them that small proteins (25, 60 and 150 kDa, unlabelled) fill; cells have 0.1-0.3")] = (0.0, 0.0)
    cytosol_frequency: Annotated[float, Field(ge=0, le=1, description="share of the tomograms that are of cells and have a cytosol; in the others the particles are purified")] = 1.0
    vesicles: Annotated[CountRange, Field(description="number of membrane vesicles [low, high]")] = (0, 3)
    vesicle_radius: Annotated[PositiveRange, Field(description="radius of a vesicle, Å")] = (200.0, 450.0)
    gold_beads: Annotated[CountRange, Field(description="number of gold beads [low, high]")] = (0, 0)
    gold_diameter: Annotated[BeadRange, Field(description="diameter of a gold bead, Å")] = (60.0, 120.0)
    voxel_size_error: Annotated[PositiveRange, Field(description="factor on the size of all particles, at most 1.1, as a wrong voxel size gives it; true densities and masks have it too; [1, 1]: none")] = (0.98, 1.02)


class AcquisitionConfig(Settings):
    """How the tilt series is taken and reconstructed; every range is drawn anew for each tomogram, and what was drawn is recorded."""

    tilt_max: Annotated[PositiveRange, Field(description="the tilts run from -tilt_max to +tilt_max around tilt_centre, degrees; not quite so far where tilt_step does not divide it")] = (60.0, 60.0)
    tilt_centre: Annotated[Range, Field(description="middle of the tilt range, degrees, as the pre-tilt of a lamella or a blocked side gives it")] = (0.0, 0.0)
    tilt_step: Annotated[PositiveRange, Field(description="angle between tilts, degrees")] = (3.0, 3.0)
    tilt_order: Annotated[dict[TiltOrder, Share], Field(description="relative frequency of each order of tilts, which decides where the dose went")] = {"dose_symmetric": 3.0, "bidirectional": 1.0, "continuous": 0.0}
    tilt_jitter: Annotated[NonNegativeRange, Field(description="standard deviation of the error of each tilt angle, degrees")] = (0.0, 0.3)
    shift_jitter: Annotated[NonNegativeRange, Field(description="standard deviation of the residual image shift (misalignment), Å")] = (0.0, 3.0)
    voltage_kv: Annotated[float, Field(gt=0, description="acceleration voltage, kV")] = 300.0
    spherical_aberration_mm: Annotated[float, Field(ge=0, description="spherical aberration, mm")] = 2.7
    amplitude_contrast: Annotated[float, Field(ge=0, le=1, description="share of amplitude contrast")] = 0.07
    defocus_um: Annotated[Range, Field(description="underfocus on the tilt axis, µm, positive")] = (2.0, 5.0)
    defocus_jitter_um: Annotated[float, Field(ge=0, description="standard deviation of the defocus from tilt to tilt, µm")] = 0.1
    defocus_gradient: Annotated[bool, Field(description="let the defocus of tilted images change with the distance from the tilt axis")] = True
    astigmatism_um: Annotated[NonNegativeRange, Field(description="largest minus smallest defocus, µm, in a random direction")] = (0.0, 0.1)
    dose_e_per_a2: Annotated[PositiveRange, Field(description="total exposure of the series, electrons per Å^2")] = (80.0, 140.0)
    radiation_damage: Annotated[bool, Field(description="let detail fade with the exposure")] = True
    b_factor: Annotated[NonNegativeRange, Field(description="extra Gaussian fall-off exp(-B k^2 / 4) of the signal, Å^2")] = (0.0, 300.0)
    quantum_efficiency: Annotated[float, Field(gt=0, le=1, description="share of the electrons that the detector counts")] = 0.6
    detector_mtf: Annotated[PositiveRange, Field(description="value of the detector's transfer function at the Nyquist frequency")] = (0.5, 0.9)
    ctf_correction: Annotated[dict[CtfCorrection, Share], Field(
        description="relative frequency of each way to treat the CTF in the reconstruction")] = {"none": 1.0, "phase_flip": 1.0, "deconvolve": 2.0}
    deconvolution_constant: Annotated[PositiveRange, Field(description="c in CTF / (CTF^2 + c); log-uniform")] = (0.01, 0.3)
    dose_weighting: Annotated[float, Field(ge=0, le=1, description="share of the tomograms that are reconstructed with dose weighting")] = 0.5
    cosine_weighting: Annotated[float, Field(ge=0, le=1, description="share of the tomograms whose tilts are weighted by their cosine")] = 0.5
    smoothing: Annotated[dict[Smoothing, Share], Field(
        description="relative frequency of each filter on the tomogram; wiener: S / (S + N) at each frequency, much as denoisers do")] = {"none": 1.0, "low_pass": 0.0, "wiener": 0.0}
    low_pass: Annotated[PositiveRange, Field(description="resolution of the low-pass filter where there is one, Å")] = (25.0, 50.0)


class SceneConfig(Settings):
    """What simulated tomograms are made of."""

    structures: Annotated[Path | None, Field(description="a structure library (folder made by `structures make`); none: the built-in one")] = None
    classes: Annotated[tuple[str, ...] | None, Field(min_length=1, description="names from the library to use; none: all of it")] = None
    voxel_size: Annotated[VoxelSize, Field(description="Å per voxel")] = 10.0
    seed: Annotated[int, Field(ge=0, description="same seed, same bytes, for any number of workers")] = 0
    workers: Annotated[int, Field(ge=0, description="processes; 0: one per CPU core, with a GPU no more than its memory has room for (3 GiB for each)")] = 0
    device: Annotated[Device, Field(description="where to compute: auto, cpu, gpu, or gpu:1 for the second of several; a GPU gives other random numbers than a CPU")] = "auto"
    specimen: Annotated[SpecimenConfig, Field(description="what is in the ice")] = SpecimenConfig()
    acquisition: Annotated[AcquisitionConfig, Field(description="how the tilt series is taken")] = AcquisitionConfig()

    @model_validator(mode="after")
    def _has_each_class_once(self) -> Self:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is [{', '.join(self.classes)}], but each class was expected once")
        return self


class SimulateConfig(SceneConfig):
    """`triptych simulate`: structures + physics + seed -> labelled subtomograms."""

    particles: Annotated[int, Field(gt=0, description="number of subtomograms to write")] = 2048
    particles_per_tomogram: Annotated[int, Field(gt=0, description="subtomograms cut from each simulated tomogram; they share its optics")] = 64
    none_share: Annotated[float, Field(ge=0, lt=1, description='share of subtomograms of the class "none" (background, membrane, off-centre neighbours)')] = 0.06
    tile_share: Annotated[float, Field(ge=0, description="tiles per subtomogram: boxes at random places with a label map and the centres of all that is in them, from which picking is learned")] = 0.25
    box_size: Annotated[int, Field(gt=0, multiple_of=8, description="voxels along each side of a subtomogram")] = 40
    max_shift: Shift = 20.0
    snr: Annotated[SnrRange | None, Field(description="var(signal)/var(noise) over the whole box after CTF, wedge and band limit, neighbours belonging to the signal; drawn log-uniform per subtomogram, at most 10,000; boxes of the class none, with gold, and tiles get the scale of a usual box of their tomogram instead, and so another SNR; none: what the dose gives")] = (0.03, 0.3)


class TomogramConfig(SceneConfig):
    """`triptych simulate-tomograms`: structures + physics + seed -> whole tomograms with their truth."""

    tomograms: Annotated[int, Field(gt=0, description="number of tomograms to write")] = 1
    snr: Annotated[PositiveRange | None, Field(description="var(signal)/var(noise) over the whole tomogram; drawn log-uniform per tomogram; none: what the dose gives")] = None
    contrast: Annotated[Contrast, Field(description="sign of the particles in the tomograms that are written")] = DEFAULT_CONTRAST
    specimen: Annotated[SpecimenConfig, Field(description="what is in the ice")] = SpecimenConfig(shape=(200, 512, 512), cytosol=(0.05, 0.15), gold_beads=(4, 10))


class CutConfig(Settings):
    """`triptych cut`: annotated tomograms -> labelled subtomograms and tiles to train on."""

    voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of the tomograms; none: as the files say")] = None
    model_voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of what is written, such as 10 to go on from the shipped model; none: as the first tomogram")] = None
    coordinate_pixel_size: Annotated[VoxelSize | None, Field(description="Å per pixel in which the list of particles counts; none: as the list says, which motive lists never do")] = None
    contrast: Annotated[Contrast, Field(description="sign of the particles' grey values in the tomograms")] = DEFAULT_CONTRAST
    names: Annotated[dict[int, str], Field(description="names of the numbers in the label maps, where no classes.star in or beside their folder tells them; others are called class_1, class_2 ...")] = {}
    not_particles: Annotated[tuple[str, ...], Field(description="names of labels that are no particles, such as membranes")] = ("membrane", "gold")
    radius: Annotated[dict[str, PositiveFloat], BeforeValidator(_names_are_text), Field(description="Å, for each class of a list of particles without label maps: the radius of the ball that stands for it; a copick project states its own, unless given here")] = {}
    particles_per_tomogram: Annotated[int, Field(gt=0, description="subtomograms cut from each tomogram, as many of each class as of any other; a particle is cut several times, each time with another shift")] = 256
    tiles_per_tomogram: Annotated[int, Field(ge=0, description="tiles cut from each tomogram, from which picking is learned")] = 64
    none_share: Annotated[float, Field(ge=0, lt=1, description='share of the subtomograms of the class "none"')] = 0.1
    none_distance: Annotated[float, Field(ge=0, description='least distance of the class "none" from the centre of any particle, Å')] = 100.0
    turned_share: Annotated[float, Field(ge=0, le=1, description="share of the subtomograms and tiles cut in a random orientation, from interpolated voxels: more orientations of few particles, for a missing wedge that lies askew in them")] = 0.0
    box_size: Annotated[int, Field(gt=0, multiple_of=8, description="voxels along each side of a subtomogram and a tile")] = 40
    max_shift: Shift = 20.0
    seed: Annotated[int, Field(ge=0, description="same seed, same bytes")] = 0


class NetworkConfig(Settings):
    """The network."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1, description="heads to build: any of class, mask, density, and pick, which marks and names everything in a tile")] = ("class", "mask", "density", "pick")
    channels: Annotated[tuple[Channels, Channels, Channels], Field(description="channels at 1/2, 1/4 and 1/8 of the resolution")] = (32, 96, 192)
    blocks: Annotated[tuple[Blocks, Blocks, Blocks], Field(description="residual blocks of the encoder at 1/2, 1/4 and 1/8")] = (1, 2, 2)
    embedding_size: Annotated[int, Field(gt=0, le=65536, description="length of the embedding vector")] = 128
    spectrum: Annotated[Spectrum, Field(description="normalised: every box gets the same balance of coarse and fine before the network sees it, whatever detector, CTF correction and filters have made of it; particles: every subtomogram, but no tile; kept: none")] = "particles"
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout before the class head")] = 0.1

    @model_validator(mode="after")
    def _has_each_task_once(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks is [{', '.join(self.tasks)}], but each task was expected once")
        return self


class AugmentConfig(Settings):
    """What is done to a simulated subtomogram each time it is drawn."""

    snr: Annotated[PositiveRange | None, Field(description="redraw the SNR log-uniformly from this range; none: keep the stored noise")] = (0.03, 0.4)
    swap_noise: Annotated[bool, Field(description="take the noise of another subtomogram of the same tomogram")] = True
    half_turns: Annotated[bool, Field(description="180° turns about x, y, z, which keep wedge and hand")] = True
    low_pass: Annotated[PositiveRange, Field(description="resolution of a low-pass filter of random steepness, Å; drawn per subtomogram. Up to twice the voxel size it does nothing")] = (10.0, 45.0)
    low_pass_share: Annotated[float, Field(ge=0, le=1, description="share of subtomograms that are low-passed")] = 0.3
    fall_off: Annotated[NonNegativeRange, Field(description="B of a Gaussian fall-off exp(-B k^2 / 4) of signal and noise, Å^2, as interpolation, binning and CTF premultiplication leave it; drawn per subtomogram")] = (0.0, 10000.0)
    fall_off_share: Annotated[float, Field(ge=0, le=1, description="share of subtomograms that fall off")] = 0.4
    high_pass_share: Annotated[float, Field(ge=0, le=1, description="share of subtomograms whose lowest frequencies (beyond 150-1000 Å) are damped")] = 0.2
    padding_share: Annotated[float, Field(ge=0, le=1, description="share of subtomograms whose border is blank, as after padding a smaller box")] = 0.15
    inverted_share: Annotated[float, Field(ge=0, le=1, description='share turned into "none" by inverting the contrast')] = 0.03
    scrambled_share: Annotated[float, Field(ge=0, le=1, description='share turned into "none" by scrambling the Fourier phases')] = 0.03


class LossConfig(Settings):
    """Weights of the losses of the tasks."""

    balance: Annotated[Literal["fixed", "uncertainty", "gradient"], Field(description="further weights that change while training; fixed: none; uncertainty: learned (Kendall et al. 2018); gradient: such that every task pulls at the shared layers with the same force")] = "fixed"
    class_weight: Annotated[float, Field(ge=0, description="cross-entropy")] = 1.0
    mask_weight: Annotated[float, Field(ge=0, description="10 x binary cross-entropy + soft Jaccard loss")] = 1.0
    density_weight: Annotated[float, Field(ge=0, description="squared error + (1 - correlation)")] = 1.0
    pick_weight: Annotated[float, Field(ge=0, description="of a tile: 10 x binary cross-entropy + soft Jaccard loss of what is no background, cross-entropy of its labels, focal loss of the centres")] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="label smoothing of the cross-entropy")] = 0.03
    contrastive_weight: Annotated[float, Field(ge=0, description="of the embedding: supervised contrastive loss (Khosla et al. 2020), part of the task class; draws particles of a class together and others apart")] = 0.0
    contrastive_temperature: Annotated[float, Field(gt=0, description="of that loss; the lower, the more it looks at the nearest particles")] = 0.1


class NoveltyConfig(Settings):
    """How particles of unknown structures are told from known ones."""

    score: Annotated[NoveltyScore | None, Field(description="score to use where no structures are withheld; with some, the best of all is chosen. none: density, for a model without that task neighbours; probability: of the best class; energy: log-sum-exp of the logits; mahalanobis: distance to the nearest class; neighbours: distance to the k-th nearest known particle; density: shape of the recovered density against those of its class")] = None
    accepted_share: Annotated[float, Field(gt=0, lt=1, description="share of the held-out known particles that are to be accepted, of those that are named rightly, where no structures are withheld")] = 0.95
    far_share: Annotated[float, Field(ge=0, lt=1, description="share of the same particles that may be called unknown for the mere distance to their nearest known ones, whatever the score: so that data are noticed which are strange as such; 0: none")] = 0.01
    particles: Annotated[int, Field(gt=1, description="known particles that the reference is made from, at most; their embeddings are kept in the model folder")] = 2048
    neighbours: Annotated[int, Field(gt=0, description="k of the score neighbours")] = 10


class TrainConfig(Settings):
    """`triptych train`: labelled subtomograms -> model folder."""

    MACHINE = frozenset({"stop_after", "device", "devices", "nodes", "loader_workers", "refresh_workers", "cache"})

    network: Annotated[NetworkConfig, Field(description="the network")] = NetworkConfig()
    augment: Annotated[AugmentConfig, Field(description="augmentation")] = AugmentConfig()
    loss: Annotated[LossConfig, Field(description="losses")] = LossConfig()
    novelty: Annotated[NoveltyConfig, Field(description="how unknown structures are recognised")] = NoveltyConfig()
    withheld: Annotated[tuple[str, ...], Field(description="classes of the data that the network is never shown; their held-out particles serve to choose score and threshold of the novelty. Not with the task pick, whose tiles show everything")] = ()
    updates: Annotated[int, Field(gt=0, description="optimiser steps in all")] = 4000
    stop_after: Annotated[int | None, Field(gt=0, description="end at the first checkpoint after so many steps, whatever the learning-rate schedule says; none: after all")] = None
    batch_size: Annotated[int, Field(gt=1, description="subtomograms per step")] = 32
    tiles_per_batch: Annotated[int, Field(ge=0, description="tiles per step, for the task pick")] = 8
    updates_per_checkpoint: Annotated[int, Field(gt=0, description="steps between checkpoints and validations; a resumed run goes on from the last one")] = 250
    learning_rate: Annotated[float, Field(gt=0, le=1, description="highest learning rate of AdamW; warm-up, then cosine decay to zero")] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, description="AdamW")] = 0.01
    warmup_share: Annotated[float, Field(ge=0, le=1, description="share of the steps over which the learning rate rises")] = 0.05
    gradient_clip: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 5.0
    validation_share: Annotated[float, Field(gt=0, lt=1, description="share of the particles held out: whole tomograms, so that no neighbour leaks; where a single one would be more than twice the share, of data that cut wrote, a slab at the end of its longer side (x or y) instead, and boxes that reach into that are not used")] = 0.05
    validation_particles: Annotated[int, Field(gt=0, description="held-out particles used at most")] = 1024
    crop_size: Annotated[int | None, Field(gt=0, multiple_of=8, description="central cube of so many voxels that the first updates see: cheaper; none: the whole box from the start")] = None
    crop_share: Annotated[float, Field(ge=0, le=1, description="share of the updates that see crop_size only")] = 0.6
    initial_model: Annotated[Path | None, Field(description="model folder whose weights to start from; base: the model that ships with triptych")] = None
    precision: Arithmetic = "auto"
    device: Annotated[Device, Field(description="where to train: auto, cpu, gpu, or gpu:1 for the second of several; auto: a GPU where there is one")] = "auto"
    devices: Annotated[int, Field(gt=0, description="GPUs of a machine that train together, or processes on CPUs; each has its share of every batch")] = 1
    nodes: Annotated[int, Field(gt=0, description="machines that train together; srun or torchrun must start the command on all of them, once for each device")] = 1
    cache: Annotated[bool, Field(description="keep an uncompressed copy of the dataset beside the model while training (0.45 MB per subtomogram of 40^3): faster loading")] = True
    refresh_every: Annotated[int | None, Field(gt=0, description="steps after which training goes on with freshly simulated data, which are made meanwhile at low priority; a multiple of updates_per_checkpoint; none: always the same data")] = None
    refresh_workers: Annotated[int, Field(ge=0, description="processes that simulate fresh data; 0: one per CPU core")] = 0
    loader_workers: Annotated[int | None, Field(ge=0, description="processes that prepare batches; none: one, but for a GPU, which is faster than that, eight where there are as many cores")] = None
    seed: Annotated[int, Field(ge=0, description="of weights, order, augmentation and fresh data")] = 0

    @model_validator(mode="after")
    def _refreshes_at_checkpoints(self) -> Self:
        if self.refresh_every is not None and self.refresh_every % self.updates_per_checkpoint:
            raise ValueError(f"refresh_every is {self.refresh_every}, but a multiple of updates_per_checkpoint ({self.updates_per_checkpoint}) was expected")
        return self

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> Self:
        processes = self.devices * self.nodes
        for name in ("batch_size", "tiles_per_batch"):
            if getattr(self, name) % processes:
                raise ValueError(f"{name} is {getattr(self, name)}, but a multiple of devices x nodes ({processes}) was expected, which share each batch")
        if processes > 1 and self.loss.contrastive_weight > 0:
            raise ValueError("loss.contrastive_weight is above 0, but that loss compares the particles of one process only: set devices=1 and nodes=1")
        if processes > 1 and ":" in self.device:
            raise ValueError(f"device is {self.device}, but several devices are to train together: set device=gpu, or devices=1")
        return self

    @model_validator(mode="after")
    def _balances_what_has_a_gradient(self) -> Self:
        idle = [f"loss.{task}_weight" for task in self.network.tasks if getattr(self.loss, f"{task}_weight") == 0]
        if self.loss.balance == "gradient" and idle:
            raise ValueError(f"{idle[0]} is 0, but loss.balance=gradient would give all force to what has none: leave that task out of network.tasks")
        return self


class CalibrateConfig(Settings):
    """`triptych calibrate`: a trained model + labelled subtomograms -> the same model with another temperature, novelty reference and fidelity."""

    novelty: Annotated[NoveltyConfig, Field(description="how unknown structures are recognised")] = NoveltyConfig()
    spectrum: Annotated[Spectrum | None, Field(description="what the network is to do with spectra from now on, as network.spectrum of a training; none: as it was trained")] = None
    fit_temperature: Annotated[bool, Field(description="fit the temperature of the probabilities; false: leave the model's")] = True
    fit_novelty: Annotated[bool, Field(description="fit the novelty reference, by which particles are called unknown; false: leave the model's")] = True
    fit_fidelity: Annotated[bool, Field(description="fit the fidelity, what correlation with the truth recovered densities are expected to have; false: leave the model's")] = True
    held_out_share: Annotated[float, Field(gt=0, lt=1, description="share of the particles, in whole tomograms or in a slab of one (as validation_share of train), on which the threshold is chosen and the figures are measured; from the others temperature and reference are fitted")] = 0.4
    batch_size: Annotated[int, Field(gt=0, description="subtomograms per forward pass")] = 32
    precision: Arithmetic = "auto"
    device: RunDevice = "auto"
    seed: Annotated[int, Field(ge=0, description="of the choice of particles")] = 0


class GroupConfig(Settings):
    """How particles are grouped."""

    smallest: Annotated[int, Field(gt=1, description="least particles of a group")] = 10
    neighbours: Annotated[int, Field(gt=0, description="neighbours from which the density of particles is estimated (min_samples of HDBSCAN)")] = 5
    dimensions: Annotated[int, Field(gt=1, description="principal components of the embeddings, and of the shapes, that are looked at, at most; fewer where only they stand out from the noise")] = 8
    resamplings: Annotated[int, Field(ge=0, description="groupings of a random part of the particles from which the stability is taken; without them no group is parted")] = 10
    least_stability: Annotated[float, Field(ge=0, le=1, description="a group is parted where all its parts are at least so stable")] = 0.75
    reach: Annotated[float, Field(ge=0, description="a particle between the groups joins the one that it is nearest to, up to so many times as far as its particles lie from one another")] = 1.25
    resampled_share: Annotated[float, Field(gt=0, lt=1, description="share of the particles in each of them")] = 0.8
    sample: Annotated[int, Field(gt=1, description="particles among which groups are found, at most; the others join a group that they lie near")] = 20_000
    junk_share: Annotated[float, Field(gt=0, le=1, description='mean probability of "none" from which on a group is junk')] = 0.5


class PredictConfig(Settings):
    """`triptych predict`: model + particles -> STAR, masks, densities."""

    MACHINE = Settings.MACHINE | {"batch_size"}

    voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of the input; none: as the files say")] = None
    contrast: Annotated[Contrast | Literal["auto"] | None, Field(description="dark: particles have low values; bright: high values, as RELION writes; auto: decide from the data; none: as our Zarr store states, or what pick wrote (_triptychContrast, or the manifest beside it), and dark for other files, which don't state it")] = None
    tomograms: Annotated[Path | None, Field(description="folder of the tomograms that coordinates refer to, one tomogram, or a table of them (STAR); none: beside the STAR file, or as its rlnTomoReconstructedTomogram column says")] = None
    tomogram_voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of the tomograms; none: as a table of tomograms that names their files says, else as their headers say")] = None
    coordinate_pixel_size: Annotated[VoxelSize | None, Field(description="Å per pixel of rlnCoordinateX/Y/Z; none: as the STAR file says (RELION: the unbinned tilt series' pixel; Warp: the export's)")] = None
    batch_size: Annotated[int, Field(gt=0, description="subtomograms per forward pass")] = 16
    half_turns: Annotated[bool, Field(description="average over the four 180° turns that keep the wedge: better, four times the arithmetic")] = False
    deconvolve: Annotated[Literal["nothing", "untreated", "phase_flipped", "multiplied"], Field(description="subtomograms to deconvolve before the model looks at them, by what their reconstruction has made of the CTF; nothing: they are deconvolved already, or left as they are")] = "nothing"
    defocus_um: Annotated[float | None, Field(gt=0, le=30, description="defocus for deconvolve, µm, underfocus positive; none: as the files say of the particles or of their tomograms' tilts")] = None
    voltage_kv: Annotated[float | None, Field(ge=20, le=3000, description="voltage for deconvolve; none: as the files say, else 300")] = None
    class_shares: Annotated[Literal["trained", "estimated"], Field(description="how frequent the classes are taken to be; trained: as in the training data; estimated: as all these particles but those called unknown together suggest, which helps where few kinds make up most of them")] = "trained"
    write_masks: Annotated[bool, Field(description="write masks/<name>.mrc")] = True
    write_densities: Annotated[bool, Field(description="write densities/<name>.mrc")] = True
    precision: Arithmetic = "auto"
    device: RunDevice = "auto"
    workers: Workers = 1


class PickConfig(Settings):
    """`triptych pick`: model + whole tomograms -> particles, label maps, maps of the particles."""

    MACHINE = Settings.MACHINE | {"batch_size"}

    voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of the tomograms; none: as the files say")] = None
    contrast: Annotated[Contrast | Literal["auto"], Field(description="sign of the particles' grey values in the tomograms; auto: decide from the data of each")] = DEFAULT_CONTRAST
    threshold: Annotated[float, Field(gt=0, lt=1, description="least probability of a particle's centre that is looked at")] = 0.15
    min_score: Annotated[float, Field(ge=0, le=1, description="least score (probability of the centre x probability of being a particle at all) of a particle that is written; lower it to choose among more by their scores")] = 0.2
    max_overlap: Annotated[float, Field(ge=0, le=1, description="most that the masks of a particle and of a better one may have in common, as a share of the smaller mask")] = 0.3
    tile_size: Annotated[int, Field(ge=16, le=512, description="most voxels (of the model) along each side that are scanned at once, without the margin")] = 64
    margin: Annotated[int, Field(ge=0, le=128, description="voxels (of the model) around them that are seen too")] = 16
    batch_size: Annotated[int, Field(gt=0, description="particles per forward pass")] = 16
    half_turns: Annotated[bool, Field(description="look at everything in four orientations that keep the wedge: better, four times the arithmetic")] = False
    write_instances: Annotated[bool, Field(description="write instances/<tomogram>.mrc: the number of the particle in each voxel")] = True
    write_densities: Annotated[bool, Field(description="write densities/<tomogram>.mrc: the recovered tomogram, particles only")] = False
    precision: Arithmetic = "auto"
    device: RunDevice = "auto"
    workers: Workers = 1


class AlignConfig(Settings):
    """How volumes are turned and shifted onto a reference, and averaged."""

    resolution: Annotated[float, Field(gt=0, description="finest detail that is compared, Å; never finer than two voxels")] = 25.0
    coarse_resolution: Annotated[float, Field(gt=0, description="finest detail that the search over all rotations compares, Å")] = 40.0
    step: Annotated[float, Field(ge=2, le=45, description="mean angle between neighbouring rotations of the search")] = 15.0
    max_shift: Annotated[float, Field(ge=0, description="the particle's centre is at most this far from the box's centre, Å")] = 40.0
    candidates: Annotated[int, Field(gt=0, description="best rotations of the search, none a neighbour of another, from which refinement starts")] = 6
    starts: Annotated[int, Field(gt=0, description="particles that a consensus without a reference starts from, each on its own; the best agreement wins")] = 5
    rounds: Annotated[int, Field(gt=0, description="most rounds of aligning and averaging of a consensus")] = 8
    agreeing: Annotated[int, Field(gt=1, description="particles that take part in these rounds, at most, drawn at random; the others are aligned once, to what these agree on")] = 500
    device: Annotated[Device, Field(description="where to compute")] = "auto"


class PoseSettings(Settings):
    """What stages that find poses have in common."""

    only: Annotated[Path | None, Field(description="STAR file of some of the predicted particles, such as `triptych select` writes: the others are left out; none: all count")] = None
    tilt_range: Annotated[TiltRange | None, Field(description=f"lowest and highest tilt, degrees: what lies outside was not measured; none: as the files say, else {ASSUMED_TILT_RANGE[0]:g} to {ASSUMED_TILT_RANGE[1]:g}")] = None
    ctf: Annotated[bool, Field(description="undo the CTF in the averages, and allow for it where subtomograms are aligned, if files say what it is: CTF volumes that the STAR file names (rlnCtfImage), what a simulated dataset or the table of simulated tomograms states, or predict deconvolved")] = True
    align: Annotated[AlignConfig, Field(description="how particles are aligned")] = AlignConfig()


class OrientConfig(PoseSettings):
    """`triptych orient`: predictions -> the pose of each particle of a known structure, and that structure put there."""

    library: Annotated[Path | None, Field(description="structures of the classes, by name: a library that `structures make` wrote, a folder of PDB, mmCIF and map files, or one such file; none: the built-in library")] = None
    classes: Annotated[tuple[str, ...] | None, Field(min_length=1, description="only particles that were called so, which a rival may rename; none: all classes that the library has")] = None
    unknown: Annotated[bool, Field(description='also particles whose verdict is "unknown", as what they resemble most')] = False
    known: Annotated[Path | None, Field(description="folder that orient wrote of particles that are what they are called, such as simulated ones: particles that fit their structure less well than these do are unknown, and all are judged; none: who was unknown stays so")] = None
    accepted_share: Annotated[float, Field(gt=0, le=1, description="share of those particles that is not to be called unknown")] = 0.97
    align_by: Annotated[Literal["both", "subtomograms", "recovered"], Field(description="what structures are put into: the subtomogram, searched by itself and from the pose that the recovered density gives; or one of the two alone, as where the model recovers no densities")] = "both"
    rivals: Annotated[int, Field(ge=0, description="other classes, the likeliest first, whose structures are tried on each particle too: the one that fits its subtomogram best names it (not with align_by=recovered); 0: classes stay")] = 3
    rival_probability: Annotated[float, Field(ge=0, le=1, description="least probability of such a class, as predict gave it")] = 0.01
    hand_check: Annotated[int, Field(ge=0, description="particles, the surest, on which the mirror images of structures are tried too, to see whether the tomograms have the right hand; 0: none")] = 32
    write_masks: Annotated[bool, Field(description="write masks/<name>.mrc: where the structure is in this pose")] = True
    write_densities: Annotated[bool, Field(description="write densities/<name>.mrc: the structure in this pose")] = True
    write_labels: Annotated[bool, Field(description="write labels/<tomogram>.mrc: the numbers of classes.star where the structures are, of particles that are cut out of tomograms")] = False
    workers: Workers = 1

    @property
    def by_subtomograms(self) -> bool:
        """Whether structures are put into the subtomograms."""
        return self.align_by != "recovered"

    @property
    def by_densities(self) -> bool:
        """Whether structures are put into the recovered densities."""
        return self.align_by != "subtomograms"


class DiscoverConfig(PoseSettings):
    """`triptych discover`: predictions -> groups of like particles, aligned averages, what they may be."""

    particles: Annotated[Literal["unknown", "all"], Field(description='particles to group: those whose verdict is "unknown", or all but those of the class "none"')] = "unknown"
    classes: Annotated[tuple[str, ...] | None, Field(min_length=1, description="group the particles that were called so instead")] = None
    poses: Annotated[Path | None, Field(description="folder that orient wrote of the same predictions, with its setting known: what it calls unknown is grouped too")] = None
    one_group: Annotated[bool, Field(description="take these particles as one group instead of looking for several")] = False
    voxel_size: Annotated[VoxelSize | None, Field(description="Å per voxel of the averages; none: as the first particle")] = None
    library: Annotated[Path | None, Field(description="what averages are compared with: a library that `structures make` wrote, a folder of PDB, mmCIF and map files, or one such file; none: the built-in library")] = None
    matches: Annotated[int, Field(gt=0, description="best matches that are listed for each group")] = 5
    group: Annotated[GroupConfig, Field(description="how particles are grouped")] = GroupConfig()
    align_by: Annotated[Literal["recovered", "subtomograms"], Field(description="what particles are aligned through: recovered densities, without noise and wedge; or the subtomograms themselves, where the model recovers too little")] = "recovered"
    refine: Annotated[bool, Field(description="refine the poses found through recovered densities by the subtomograms themselves, against the recovered average of their half")] = True
    layout: Annotated[Literal["tsne", "pca"], Field(description="how the map of the embedding is drawn: t-SNE keeps neighbours together, PCA distances")] = "tsne"
    workers: Workers = 1
    panels: Annotated[int, Field(ge=0, description="particles whose panels the page shows, drawn at random where there are more")] = 1000
    seed: Annotated[int, Field(ge=0, description="of half sets, starts of the alignment, resampling of the groups, and the map")] = 0

    @model_validator(mode="after")
    def _poses_say_what_is_unknown(self) -> Self:
        if self.poses is not None and (self.classes is not None or self.particles == "all"):
            raise ValueError(f"poses is {self.poses}, which says what is unknown, but other particles are to be grouped: leave out poses, or classes and particles")
        return self


class ReportConfig(Settings):
    """`triptych report`: predictions (+ truth) -> metrics.json and report.html."""

    gallery: Annotated[int, Field(ge=0, description="particles shown with their panels")] = 24
    seed: Annotated[int, Field(ge=0, description="of the choice of particles shown")] = 0


STAGES: dict[str, type[Settings]] = {
    "simulate": SimulateConfig,
    "simulate-tomograms": TomogramConfig,
    "cut": CutConfig,
    "train": TrainConfig,
    "calibrate": CalibrateConfig,
    "predict": PredictConfig,
    "pick": PickConfig,
    "orient": OrientConfig,
    "discover": DiscoverConfig,
    "report": ReportConfig,
}
