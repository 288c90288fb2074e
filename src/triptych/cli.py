"""The command line: parse, load the settings, call one stage, show what came of it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from triptych import __version__
from triptych.errors import INTERRUPTED, START_OVER, InputError, counted, first_line
from triptych.io.output_names import PAGE, TOMOGRAMS
from triptych.parallel import keep_freed_memory
from triptych.terminal import (
    device_name,
    err,
    make_table,
    out,
    print_calibration,
    print_comparisons,
    print_description,
    print_groups,
    print_oriented,
    print_path,
    print_predicted,
    print_report,
    print_simulated,
    say_error,
    say_log,
    show_progress,
)

DIFFERENT = 1
INPUT_ERROR = 2

DEMO_PARTICLES = 500
DEMO_SNR = 0.1
DEMO_NOTE = "demo.json"
DEMO_PARTS = ("data.zarr", "predictions", "report")

TORCH_WANTS_MEMORY = "can't allocate memory"
"""What torch, which raises no MemoryError, says of the CPU's memory."""


class Commands(TyperGroup):
    """Commands whose errors are sentences."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with in_sentences():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with in_sentences():
            return super().invoke(ctx)


@contextmanager
def in_sentences() -> Iterator[None]:
    """Say what a user can cause, or do, and end with its exit code."""
    try:
        yield
    except InputError as error:
        say_error(str(error))
        raise typer.Exit(INPUT_ERROR) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and TORCH_WANTS_MEMORY not in str(error):
            raise
        say_error(f"this needs more memory than there is ({first_line(error)}): ask for less at once, such as smaller volumes")
        raise typer.Exit(INPUT_ERROR) from error
    except KeyboardInterrupt as interrupt:
        err.print(f"stopped by you: {str(interrupt) or START_OVER}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One network for cryo-electron subtomograms: what a particle is, where it is, and what it looks like.",
)
structures_app = typer.Typer(no_args_is_help=True, help="Structures to simulate and orient: list, make from files, average, fetch by ID.")
app.add_typer(structures_app, name="structures")

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings; `triptych config STAGE` prints one.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as seed=7; may be given several times.")]
ModelFolder = Annotated[Path | None, typer.Option("--model", metavar="MODEL", help="Model folder; default: the one that ships with triptych (base).")]
Part = Annotated[str | None, typer.Option("--part", metavar="K/N", help="Do the K-th of N parts only, as a job array wants it.")]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786, whose workers do it.")
]
Tomograms = Annotated[list[Path], typer.Argument(metavar="TOMOGRAM...", help="MRC files, OME-Zarr groups, or folders of them.")]
PredictionFolder = Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder written by predict.")]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]
NewStore = Annotated[Path, typer.Argument(metavar="OUT", help="Zarr store to write.")]
NewModel = Annotated[Path, typer.Argument(metavar="OUT", help="Model folder to write.")]


# -------------------------------------------------------------------------------------------------------------- commands


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"triptych {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more about what is being done.")] = False,
) -> None:
    say_log(logging.INFO if verbose else logging.WARNING)
    keep_freed_memory()


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder to write.")] = Path("triptych-demo"),
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the simulation; default: a fresh one.")] = None,
    particles: Annotated[int, typer.Option(min=1, help="How many particles to simulate.")] = DEMO_PARTICLES,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """The whole job on the built-in structures: simulate, predict with the shipped model, report."""
    clear_demo_folder(output, overwrite)
    from triptych.config import PredictConfig, ReportConfig, SimulateConfig
    from triptych.stages.predict import predict as predict_stage
    from triptych.stages.report import report as report_stage
    from triptych.stages.simulate import simulate as simulate_stage

    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    output.mkdir(parents=True, exist_ok=True)
    note = {"triptych": __version__, "seed": seed, "particles": particles, "snr": DEMO_SNR}
    (output / DEMO_NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    data, predictions, report_folder = (output / part for part in DEMO_PARTS)
    out.print(f"demo: {counted(particles, 'particle')} at SNR {DEMO_SNR:g}, seed {seed}")
    config = SimulateConfig(particles=particles, snr=(DEMO_SNR, DEMO_SNR), seed=seed)
    show = partial(show_progress, again="give the same command with --overwrite to start over")
    with show("simulate", "particles", device_name("auto")) as on_progress:
        simulate_stage(data, config, on_progress=on_progress)
    with show("predict", "particles", device_name("auto")) as on_progress:
        predict_stage(data, predictions, None, PredictConfig(half_turns=True), on_progress=on_progress)
    with show("report", "particles") as on_progress:
        report_stage(predictions, report_folder, data, ReportConfig(), on_progress=on_progress)
    print_report(report_folder)


@structures_app.command("list")
def list_structures(
    library: Annotated[Path | None, typer.Argument(metavar="[LIBRARY]", help="A library folder; default: the built-in one.")] = None,
) -> None:
    """The structures of a library: name, mass, source."""
    from triptych.simulation.library import load_library

    table = make_table("name", "mass, kDa", "source", numbers=(1,))
    for structure in load_library(library):
        table.add_row(escape(structure.name), f"{structure.mass_kda:,.0f}", escape(structure.source))
    out.print(table)


@structures_app.command("make")
def make_structures(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES...", help="PDB, mmCIF or MRC files, gzipped or not: [NAME=]FILE[:key=value]...; or a CSV index.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Library folder to write.")],
    voxel_size: Annotated[float | None, typer.Option(help="Å per voxel; default: as in simulate.")] = None,
) -> None:
    """Turn coordinates and maps into a library to simulate from.

    A source may be followed by :key=value, several times: assembly (auto, none, or a name in the file), model (from 1), chains (A+B+C, or
    first16 for the first 16), mass (kDa), source (free text); and for a map voxel_size (Å) and contour (its grey value). A CSV index has a row for
    each structure, with the columns name and file (beside the index), and if wanted assembly, model, chains, mass, contour, voxel_size_A (of a map),
    entry (as source) and kind (density: a map).
    """
    from triptych.config import SimulateConfig
    from triptych.simulation.library import make_library

    with err.status("making structures"):
        make_library(files, output, SimulateConfig().voxel_size if voxel_size is None else voxel_size)
    list_structures(output)
    print_path("library", output)


@structures_app.command("average")
def average_structures(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Zarr store with masks, as cut writes it from label maps.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Library folder to write.")],
) -> None:
    """A library of one's own classes: the shape that the masks of each have in common, for orient to put into its place."""
    check_there(dataset)

    from triptych.stages.average_masks import average_masks

    with show_progress("average", "classes") as on_progress:
        shapes = average_masks(dataset, output, on_progress=on_progress)
    table = make_table("name", "particles", "agreement of their masks", "mass, kDa", numbers=(1, 2, 3))
    for structure, particles, agreement in shapes:
        table.add_row(escape(structure.name), f"{particles:,}", f"{agreement:.2f}", f"{structure.mass_kda:,.0f}")
    out.print(table)
    print_path("library", output)


@structures_app.command("fetch")
def fetch_structures(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="PDB or EMDB identifiers, such as 4V5D or EMD-1234.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files.")],
) -> None:
    """Download entries by ID (needs a network)."""
    from triptych.io.fetch import fetch_entries

    with show_progress("fetch", "files", device="") as on_progress:
        paths = fetch_entries(ids, output, on_progress=on_progress)
    for path in paths:
        print_path("fetched", path)


@structures_app.command("fetch-classes")
def fetch_classes(output: Annotated[Path, typer.Argument(metavar="OUT", help="Library folder to write.")]) -> None:
    """A library of the classes of the shipped model: those that are built in, and others from PDB entries (needs a network)."""
    from triptych.simulation.library import fetch_classes as fetch

    with show_progress("fetch", "files", device="") as on_progress:
        fetch(output, on_progress=on_progress)
    list_structures(output)
    print_path("library", output)


@app.command()
def simulate(output: NewStore, config: ConfigFile = None, overrides: Overrides = None, part: Part = None, scheduler: Scheduler = None) -> None:
    """Labelled subtomograms from structures; the same command goes on after an interruption."""
    numbers = parse_part(part)
    settings = load_settings("simulate", config, overrides)

    from triptych.stages.simulate import count_missing
    from triptych.stages.simulate import simulate as stage

    with show_progress("simulate", "particles", device_name(settings.device, scheduler), resumed=True) as on_progress:
        path = stage(output, settings, on_progress=on_progress, part=numbers, scheduler=scheduler)
    print_simulated("dataset", path, part, *count_missing(path, settings))


@app.command("simulate-tomograms")
def simulate_tomograms(
    output: NewFolder, config: ConfigFile = None, overrides: Overrides = None, part: Part = None, scheduler: Scheduler = None
) -> None:
    """Whole tomograms with labels, densities and particle lists; the same command goes on after an interruption."""
    numbers = parse_part(part)
    settings = load_settings("simulate-tomograms", config, overrides)

    from triptych.stages.simulate_tomograms import simulate_tomograms as stage
    from triptych.workspace import count_unfinished

    with show_progress("simulate", "tomograms", device_name(settings.device, scheduler), resumed=True) as on_progress:
        path = stage(output, settings, on_progress=on_progress, part=numbers, scheduler=scheduler)
    print_simulated("tomograms", path, part, count_unfinished(path, settings.tomograms), settings.tomograms)


@app.command()
def cut(
    tomograms: Tomograms,
    output: NewStore,
    labels: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Label maps, whose names begin with those of the tomograms.")] = None,
    particles: Annotated[Path | None, typer.Option(metavar="FILE", help="Particles with classes, in any format that convert reads.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Training data from tomograms that somebody has annotated; the same command goes on after an interruption."""
    settings = load_settings("cut", config, overrides)
    check_there(*tomograms)

    from triptych.stages.cut import cut as stage

    with show_progress("cut", "tomograms", resumed=True) as on_progress:
        path = stage(tomograms, output, labels, particles, settings, on_progress=on_progress)
    print_path("dataset", path)


@app.command("average-halves")
def average_halves(
    table: Annotated[Path, typer.Argument(metavar="TOMOGRAMS", help="tomograms.star of RELION 5 that names halves, or an optimisation set.")],
    output: NewFolder,
) -> None:
    """Whole tomograms of those reconstructed in halves, and a table of them; the same command goes on after an interruption."""
    check_there(table)

    from triptych.stages.average_halves import average_halves as stage

    with show_progress("average-halves", "tomograms", resumed=True) as on_progress:
        path = stage(table, output, on_progress)
    print_path("tomograms", path / TOMOGRAMS)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Zarr store made by simulate or cut.")],
    output: NewModel,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train any subset of the tasks."""
    settings = load_settings("train", config, overrides)

    from triptych.stages.simulate import simulate_again
    from triptych.stages.train import train as stage
    from triptych.training.ranks import own_share

    if not own_share(settings).leads:  # another process speaks for all
        stage(data, output, settings, resume=resume, refresh=simulate_again)
        return
    several = f"{settings.devices * settings.nodes} x " if settings.devices * settings.nodes > 1 else ""
    again = "give the same command with --resume to go on from the last checkpoint"
    with show_progress("train", "updates", several + device_name(settings.device), resume, again) as on_progress:
        path = stage(data, output, settings, resume=resume, on_progress=on_progress, refresh=simulate_again)
    print_path("model", path)


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Trained model folder, or base: the one that ships with triptych.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Zarr store that it was not trained on, with the same box and voxel size.")],
    output: NewModel,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """The same model with temperature, novelty and fidelity fitted anew; classes of DATA that it does not know serve as novel ones."""
    settings = load_settings("calibrate", config, overrides)

    from triptych.stages.calibrate import calibrate as stage

    with show_progress("calibrate", "particles", device_name(settings.device)) as on_progress:
        path = stage(model, data, output, settings, on_progress=on_progress)
    print_calibration(path)
    print_path("model", path)


@app.command()
def predict(
    particles: Annotated[str, typer.Argument(metavar="PARTICLES", help="STAR file, folder, MRC file, quoted glob of MRC files, or Zarr store.")],
    output: NewFolder,
    model: ModelFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    part: Part = None,
    scheduler: Scheduler = None,
) -> None:
    """Class, mask and density of every particle; the same command goes on after an interruption."""
    numbers = parse_part(part)
    settings = load_settings("predict", config, overrides)
    if not set("*?[") & set(particles):
        check_there(Path(particles))

    from triptych.stages.predict import predict as stage

    with show_progress("predict", "particles", device_name(settings.device, scheduler), resumed=True) as on_progress:
        path = stage(particles, output, model, settings, on_progress=on_progress, part=numbers, scheduler=scheduler)
    print_predicted("predictions", path, part)


@app.command()
def pick(
    tomograms: Annotated[
        list[Path], typer.Argument(metavar="TOMOGRAM...", help="MRC files, OME-Zarr groups, folders of them, a tomograms.star, an optimisation set.")
    ],
    output: NewFolder,
    model: ModelFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    part: Part = None,
    scheduler: Scheduler = None,
) -> None:
    """Particles of whole tomograms; the same command goes on after an interruption."""
    numbers = parse_part(part)
    settings = load_settings("pick", config, overrides)
    check_there(*tomograms)

    from triptych.stages.pick import pick as stage

    with show_progress("pick", "steps", device_name(settings.device, scheduler), resumed=True) as on_progress:
        path = stage(tomograms, output, model, settings, on_progress=on_progress, part=numbers, scheduler=scheduler)
    print_predicted("picks", path, part)


@app.command()
def select(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="STAR file that pick, predict, orient or discover wrote, or the folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="STAR file to write.")],
    classes: Annotated[list[str] | None, typer.Option("--class", metavar="NAME", help="Keep this class; may be given several times.")] = None,
    not_classes: Annotated[list[str] | None, typer.Option("--not-class", metavar="NAME", help="Leave this class out; likewise.")] = None,
    verdict: Annotated[str | None, typer.Option(metavar="VERDICT", help="Keep what was called known, or unknown.")] = None,
    groups: Annotated[
        list[int] | None, typer.Option("--group", metavar="NUMBER", help="Keep this group of discover (0: what is in none); likewise.")
    ] = None,
    min_probability: Annotated[float | None, typer.Option(help="Least probability of the class.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Least score of pick, or of what wrote the table.")] = None,
    min_alignment_score: Annotated[float | None, typer.Option(help="Least score of orient, or of discover.")] = None,
    min_pose_probability: Annotated[float | None, typer.Option(help="Least probability, by orient, that the pose is right.")] = None,
    min_fidelity: Annotated[float | None, typer.Option(help="Least expected correlation of the recovered density with the true one.")] = None,
    tomograms: Annotated[list[str] | None, typer.Option("--tomogram", metavar="NAME", help="Keep this tomogram; may be given several times.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="Keep so many of each class at most: those with the best score, or probability.")] = None,
) -> None:
    """The particles of a table that meet every condition, for the next program."""
    from triptych.stages.select import select as choose

    counts = choose(
        table,
        output,
        classes=classes or (),
        not_classes=not_classes or (),
        verdict=verdict,
        groups=groups or (),
        min_probability=min_probability,
        min_score=min_score,
        min_alignment_score=min_alignment_score,
        min_pose_probability=min_pose_probability,
        min_fidelity=min_fidelity,
        tomograms=tomograms or (),
        best=best,
    )
    shown = make_table("class", "before", "after", numbers=(1, 2))
    for name, (before, after) in zip(counts.index, counts.to_numpy(), strict=True):
        shown.add_row(escape(str(name)), str(before), str(after))
    out.print(shown)
    print_path("particles", output)


@app.command()
def orient(
    predictions: PredictionFolder,
    output: NewFolder,
    config: ConfigFile = None,
    overrides: Overrides = None,
    part: Part = None,
    scheduler: Scheduler = None,
) -> None:
    """Name and pose of every particle of a known structure, an average of each class; the same command goes on after an interruption."""
    numbers = parse_part(part)
    settings = load_settings("orient", config, overrides)
    check_there(predictions)

    from triptych.stages.orient import orient as stage

    with show_progress("orient", "particles", device_name(settings.align.device, scheduler), resumed=True) as on_progress:
        path = stage(predictions, output, settings, on_progress=on_progress, part=numbers, scheduler=scheduler)
    print_oriented(path, part)


@app.command()
def discover(
    predictions: PredictionFolder, output: NewFolder, config: ConfigFile = None, overrides: Overrides = None, scheduler: Scheduler = None
) -> None:
    """Groups of unknown particles, their averages and what they may be; the same command goes on after an interruption."""
    settings = load_settings("discover", config, overrides)
    check_there(predictions)

    from triptych.stages.discover import discover as stage

    with show_progress("discover", "particle steps", device_name(settings.align.device, scheduler), resumed=True) as on_progress:
        path = stage(predictions, output, settings, on_progress=on_progress, scheduler=scheduler)
    print_groups(path)
    print_path("discovery", path / PAGE)


@app.command("add-class")
def add_class(
    discovery: Annotated[Path, typer.Argument(metavar="DISCOVERY", help="Folder written by discover.")],
    output: NewModel,
    names: Annotated[list[str], typer.Argument(metavar="GROUP=NAME...", help="Groups and what to call them, such as 1=my_complex.")],
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The model that made the predictions, or one that has learned classes since; default: where it was then."),
    ] = None,
) -> None:
    """A model that knows groups as classes, without training: predict with it as with any other."""
    from triptych.stages.add_class import add_classes as stage

    chosen = dict(parse_group(text) for text in names)
    if len(chosen) < len(names):
        raise InputError(f"a group is named twice in {' '.join(names)}: name each once")
    print_path("model", stage(discovery, output, chosen, model))


def parse_group(text: str) -> tuple[int, str]:
    """The number and the name of "1=my_complex"."""
    match = re.fullmatch(r"([1-9]\d*)=(.+)", text)
    if match is None:
        raise InputError(f"{text!r} came, but GROUP=NAME was expected, as in 1=my_complex: the number of a group and what to call it")
    return int(match[1]), match[2]


@app.command()
def view(
    picks: Annotated[Path, typer.Argument(metavar="PICKS", help="Folder written by pick.")],
    tomogram: Annotated[str | None, typer.Option(metavar="NAME", help="Which tomogram; default: the first.")] = None,
) -> None:
    """What was picked, in a napari window (needs pip install 'triptych\\[napari]')."""
    from triptych.stages.view import show_picks

    viewer = show_picks(picks, tomogram)

    import napari

    viewer.show()
    napari.run()


@app.command()
def report(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predict or orient; with --truth, also of another program (docs/judging.md).")
    ],
    output: NewFolder,
    truth: Annotated[Path | None, typer.Option(metavar="DATA", help="The Zarr store that the predictions were made from.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """metrics.json, and report.html with pictures."""
    settings = load_settings("report", config, overrides)

    from triptych.stages.report import report as stage

    with show_progress("report", "particles") as on_progress:
        stage(predictions, output, truth, settings, on_progress=on_progress)
    print_report(output)


@app.command()
def rerun(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.json of a folder that a command wrote, or the folder.")],
    output: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Folder to write; default: the folder's name with .rerun.")] = None,
) -> None:
    """Repeat a run with the same settings and inputs, and compare: the exit code is 1 if the outputs differ."""
    from triptych.io.manifest import manifest_entry, read_manifest
    from triptych.rerun import rerun as repeat

    made = (manifest.parent if manifest.is_file() else manifest).absolute()
    output = made.with_name(f"{made.name}.rerun") if output is None else output
    manifest_of_run = read_manifest(made)
    device = manifest_entry(manifest_of_run, "config", "device") or manifest_entry(manifest_of_run, "config", "align", "device") or "cpu"
    with show_progress("rerun", "items", device_name(str(device)), resumed=True) as on_progress:
        comparisons = repeat(manifest, output, on_progress)
    print_comparisons(comparisons)
    print_path("repeated", output)
    if not all(comparison.is_same for comparison in comparisons):
        raise typer.Exit(DIFFERENT)


@app.command()
def convert(
    particles: Annotated[Path, typer.Argument(metavar="IN", help="STAR, .tbl, .em, .mod or .csv file, or the folder of a copick project or models.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; a folder for relion5, copick, and imod with several tomograms.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="relion3.1, relion4, relion5, warp, dynamo, em, imod, copick or csv.")],
    voxel_size: Annotated[float | None, typer.Option(help="Å per pixel in which OUT counts, where IN does not tell.")] = None,
    input_voxel_size: Annotated[float | None, typer.Option(help="Å per pixel in which IN counts, where it does not tell.")] = None,
    tomogram_size: Annotated[tuple[int, int, int] | None, typer.Option(metavar="X Y Z", help="Voxels of the tomograms, of --voxel-size.")] = None,
    tomograms: Annotated[Path | None, typer.Option(metavar="FOLDER", help="MRC files, or a tomograms.star, that tell sizes and voxel sizes.")] = None,
    tomogram: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the tomogram, where IN does not tell.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", metavar="NAME", help="What the particles are, where IN does not tell.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME[/SESSION]", help="Whose points of a copick project; default: all.")] = None,
) -> None:
    """A list of particles from one program's format to another's."""
    from triptych.io.convert import FORMATS, convert_particles, find_pixel_sizes
    from triptych.io.particle_lists import Known

    known = Known(voxel_size, input_voxel_size, tomogram_size, tomograms, tomogram, class_name, user)
    found = convert_particles(particles, output, to, known)
    places = f" in {counted(len(set(found.tomograms)), 'tomogram')}" if found.tomograms is not None else ""
    sizes = sorted({f"{size:g}" for size in find_pixel_sizes(found, known, to)}) if FORMATS[to].in_pixels else []
    unit = f", in pixels of {', '.join(sizes)} Å" if sizes else ""
    out.print(f"{counted(len(found), 'particle')}{places}{unit}", soft_wrap=True)
    print_path(FORMATS[to].title, output)


@app.command()
def info(file: Annotated[Path, typer.Argument(metavar="FILE", help="Any file or folder that triptych reads or writes.")]) -> None:
    """What is this file, as triptych reads it?"""
    from triptych.describing.files import describe_file

    print_description(file, describe_file(file))


@app.command("config")
def print_config(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="simulate, simulate-tomograms, cut, train, calibrate, predict, pick, orient, discover or report.")
    ],
) -> None:
    """The annotated defaults of a stage, as YAML to save and edit."""
    from triptych.settings import format_defaults, stage_settings

    typer.echo(format_defaults(stage_settings(stage)), nl=False)


# -------------------------------------------------------------------------------------------- what commands have in common


def load_settings(stage: str, file: Path | None, overrides: Sequence[str] | None) -> Any:
    """The settings of a stage, of its own class, from --config and --set; called before the stage is imported, which takes seconds."""
    from triptych.settings import load_config, stage_settings

    return load_config(stage_settings(stage), file, overrides or ())


def check_there(*paths: Path) -> None:
    """InputError for what does not exist: said before anything is imported that takes seconds."""
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path} does not exist: check the path, which is taken from {Path.cwd()} unless it begins with a slash")


def parse_part(text: str | None) -> tuple[int, int] | None:
    """The K and N of "K/N"."""
    if text is None:
        return None
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise InputError(f"--part got {text!r}, but K/N was expected, as in --part 1/8: the number of a part, from 1, and how many there are")
    return int(numbers[1]), int(numbers[2])


# ------------------------------------------------------------------------------------------------------------------ demo


def clear_demo_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder in use; remove what an earlier demo wrote where that is wanted, and never anything else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, but the demo writes a folder: choose another --output")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not present:
        return
    ours = {DEMO_NOTE, *DEMO_PARTS, *(f".{part}.part" for part in DEMO_PARTS)}
    if DEMO_NOTE not in present or present - ours:
        raise InputError(f"the folder {folder} exists and holds other things than a demo: choose another --output")
    if not overwrite:
        raise InputError(f"the folder {folder} holds an earlier demo: choose another --output, or replace it with --overwrite")
    from triptych.io.outputs import remove

    for name in present:
        remove(folder / name)
