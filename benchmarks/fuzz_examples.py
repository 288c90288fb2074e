"""Valid files of every format that triptych reads, and what a user would call to read each."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from mutations import Files

from triptych.config import STAGES, CutConfig, NetworkConfig, PredictConfig, TrainConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io.convert import FORMATS, convert_particles, write_particles
from triptych.io.em import read_em, write_em
from triptych.io.manifest import hash_file, write_manifest
from triptych.io.mrc import read_mrc, write_mrc
from triptych.io.output_names import MANIFEST
from triptych.io.particle_lists import Known, read_particles
from triptych.io.predictions import read_predictions
from triptych.io.readers import cut_box
from triptych.io.source import open_particles
from triptych.io.star import write_star
from triptych.io.store import BOX_ARRAYS, ROW_ARRAYS, Rows, create_store, open_store
from triptych.io.tomogram import open_tomogram
from triptych.particles import Particles
from triptych.recognition.model import Model, ModelCard, load_model
from triptych.recognition.network import Network
from triptych.settings import load_config
from triptych.simulation.library import load_library, make_library
from triptych.simulation.structures import read_structure
from triptych.stages.cut import cut
from triptych.volume import Volume

BOX = 8
VOXEL_SIZE = 10.0
CLASSES = ("one", "two", "none")
Reader = Callable[[Path, Path], object]
"""(what to read, a folder to write to)"""


@dataclass(frozen=True)
class Format:
    """A format: makers of valid folders, and readers of what lies in them.

    Attributes
    ----------
    make : writes examples into a folder, each a folder of its own
    entry : the name in an example that is given to the readers; "" for the folder itself, "*" for every file
    readers : each is called with the entry
    repair : makes right again what would hide everything else, such as hashes; half of the time
    """

    make: Callable[[Path], None]
    entry: str
    readers: tuple[Reader, ...]
    repair: Callable[[Files], Files] = lambda files: files


# -------------------------------------------------------------------------------------------------------------- readers


def describe(path: Path, _: Path) -> object:
    return describe_file(path)


def read_boxes(path: Path, _: Path, **settings: Any) -> None:
    source = open_particles(path, PredictConfig(**settings), BOX * VOXEL_SIZE)
    for row in {0, len(source) - 1}:
        source.read(row)
    source.table_for(path.parent)


def read_volume(path: Path, _: Path) -> object:
    return read_mrc(path, VOXEL_SIZE)


def slice_tomogram(path: Path, _: Path) -> object:
    tomogram = open_tomogram(path)
    return cut_box(tomogram.data, np.array(tomogram.shape) // 2, (BOX,) * 3)


def read_as_structure(path: Path, _: Path) -> object:
    return read_structure(path, map_voxel_size=VOXEL_SIZE)


def read_as_assembly(path: Path, _: Path) -> object:
    return read_structure(path, assembly="1")


def convert(path: Path, out: Path) -> None:
    """To every other format, with all that may be missing said."""
    known = Known(VOXEL_SIZE, VOXEL_SIZE, (64, 64, 32))
    particles = read_particles(path, known)
    for target in FORMATS:
        with suppress(InputError):
            write_particles(out / f"{target.replace('.', '')}{FORMATS[target].ending or ''}", particles, target, known)


def convert_as_it_is(path: Path, out: Path) -> object:
    return convert_particles(path, out / "particles.csv", "csv")


def read_config(path: Path, _: Path) -> None:
    """As the settings of every stage; refused where none takes them."""
    refusals = []
    for kind in STAGES.values():
        try:
            load_config(kind, path)
        except InputError as error:
            refusals.append(error)
    if len(refusals) == len(STAGES):
        raise refusals[0]


def use_model(path: Path, _: Path) -> object:
    boxes = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    return load_model(path, "cpu", "float32").predict(boxes, VOXEL_SIZE, "bright")


def read_store(path: Path, _: Path) -> None:
    store = open_store(path)
    for name in (*BOX_ARRAYS, *ROW_ARRAYS):
        if name in store:
            store.read_rows(name, np.array([0, len(store) - 1]))


def read_labels(path: Path, out: Path) -> None:
    """Cut training data out of a tomogram with a label map and a table of names."""
    config = CutConfig(box_size=BOX, particles_per_tomogram=2, tiles_per_tomogram=1, max_shift=0)
    cut([path / "tomograms"], out / "data.zarr", labels=path / "labels", config=config)


def read_predicted(path: Path, _: Path) -> object:
    return read_predictions(path)


def read_library(path: Path, _: Path) -> object:
    return load_library(path)


def read_index(path: Path, out: Path) -> object:
    return make_library([str(path)], out / "library")


def read_em_map(path: Path, _: Path) -> object:
    return read_em(path)


# --------------------------------------------------------------------------------------------------------------- makers


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(10, 20, size=shape)


def place(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    return folder / name


def make_mrc(folder: Path) -> None:
    """Every mode, a stack of volumes, big-endian numbers, an extended header, an oblong tomogram."""
    for dtype in ("i1", "i2", "u2", "f2", "f4"):
        write_mrc(place(folder, dtype) / "map.mrc", Volume(np.abs(noise(BOX, BOX, BOX)).astype(dtype), VOXEL_SIZE))
    write_mrc(place(folder, "oblong") / "map.mrc", Volume(noise(6, 10, 8).astype("f4"), VOXEL_SIZE))
    plain = (folder / "f4" / "map.mrc").read_bytes()
    head = bytearray(plain[:1024])
    head[28:40], head[88:92] = np.array([4, 8, 8], "<i4").tobytes()[::-1], np.array(401, "<i4").tobytes()
    (place(folder, "stack") / "map.mrc").write_bytes(bytes(head) + plain[1024:])
    head = bytearray(plain[:1024])
    head[92:96] = np.array(80, "<i4").tobytes()
    (place(folder, "extended") / "map.mrc").write_bytes(bytes(head) + b"\1" * 80 + plain[1024:])
    (place(folder, "big") / "map.mrc").write_bytes(swap_bytes(plain))


def swap_bytes(data: bytes) -> bytes:
    head = bytearray(np.frombuffer(data, "<u4").byteswap().tobytes())
    head[208:212], head[212:216], head[220:1024] = b"MAP ", b"\x11\x11\0\0", data[220:1024]
    return bytes(head)


def make_compressed(folder: Path) -> None:
    make_mrc(folder / "plain")
    for example in sorted((folder / "plain").iterdir()):
        data = (example / "map.mrc").read_bytes()
        (place(folder, f"gzip_{example.name}") / "map.mrc").write_bytes(gzip.compress(data))
        (place(folder, f"bzip2_{example.name}") / "map.mrc").write_bytes(bz2.compress(data))
        (example / "map.mrc").unlink()
        example.rmdir()
    (folder / "plain").rmdir()


def some_particles(count: int = 4) -> Particles:
    rng = np.random.default_rng(0)
    matrices = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    matrices *= np.sign(np.linalg.det(matrices))[:, None, None]
    names = [f"tomogram_{row % 2}" for row in range(count)]
    return Particles(
        pd.DataFrame({"rlnTomoParticleId": range(count)}),
        rng.uniform(100, 250, (count, 3)),
        matrices,
        tomograms=names,
        classes=[CLASSES[row % 2] for row in range(count)],
        scores=rng.uniform(size=count),
        pixel_sizes=np.full(count, VOXEL_SIZE),
    )


def make_star(folder: Path) -> None:
    """Coordinates for RELION 3.1, 4, 5 and Warp, with the tomograms; images; and tilt stacks."""
    known = Known(VOXEL_SIZE, None, (40, 36, 32))
    for target in ("relion3.1", "relion4", "warp"):
        example = place(folder, target)
        write_particles(example / "particles.star", some_particles(), target, known)
        for number in (0, 1):
            write_mrc(example / f"tomogram_{number}.mrc", Volume(noise(32, 36, 40).astype("i1"), VOXEL_SIZE))
    write_particles(folder / "relion5", some_particles(), "relion5", known)
    for number in (0, 1):
        write_mrc(folder / "relion5" / f"tomogram_{number}.mrc", Volume(noise(32, 36, 40).astype("i1"), VOXEL_SIZE))
    of_set, of_relion = place(folder, "set"), folder / "relion5"
    (of_set / "particles.star").write_bytes((of_relion / "optimisation_set.star").read_bytes().replace(b"particles.star", b"list.star"))
    (of_set / "list.star").write_bytes((of_relion / "particles.star").read_bytes())
    (of_set / "tomograms.star").write_bytes((of_relion / "tomograms.star").read_bytes())
    images = place(folder, "images")
    for number in range(3):
        write_mrc(images / f"box_{number}.mrc", Volume(noise(BOX, BOX, BOX).astype("f4"), VOXEL_SIZE))
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": [VOXEL_SIZE], "rlnImageDimensionality": [3]})
    table = pd.DataFrame({"rlnTomoName": "TS_01", "rlnImageName": [f"box_{number}.mrc" for number in range(3)], "rlnOpticsGroup": 1})
    write_star(images / "particles.star", {"optics": optics, "particles": table})
    make_tilt_stacks(place(folder, "tilt_stacks"))


def make_tilt_stacks(folder: Path) -> None:
    for number in range(2):
        write_mrc(folder / f"stack_{number}.mrc", Volume(noise(3, BOX, BOX).astype("f4"), VOXEL_SIZE))
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL_SIZE], "rlnImageDimensionality": [2], "rlnVoltage": [300.0]}
    optics |= {"rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnTomoTiltSeriesPixelSize": [VOXEL_SIZE]}
    table = {"rlnTomoName": ["TS_01"] * 2, "rlnImageName": ["stack_0.mrc", "stack_1.mrc"], "rlnOpticsGroup": [1, 1]}
    table |= {"rlnTomoVisibleFrames": ["[1,1,1]"] * 2}
    table |= {f"rlnCenteredCoordinate{axis}Angst": [10.0, -20.0] for axis in "XYZ"}
    write_star(folder / "particles.star", {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)})
    tilts: dict[str, list[object]] = {"rlnTomoProjX": ["[1,0,0,20]"] * 3, "rlnTomoProjY": ["[0,1,0,18]"] * 3, "rlnTomoProjZ": ["[0,0,1,0]"] * 3}
    tilts |= {"rlnDefocusU": [30000.0] * 3, "rlnDefocusV": [30000.0] * 3, "rlnDefocusAngle": [0.0] * 3}
    sizes = {"rlnTomoName": ["TS_01"], "rlnTomoSizeX": [40], "rlnTomoSizeY": [36], "rlnTomoSizeZ": [32], "rlnTomoHand": [-1.0]}
    write_star(folder / "tomograms.star", {"global": pd.DataFrame(sizes), "TS_01": pd.DataFrame(tilts)})


def maker_of(target: str, name: str) -> Callable[[Path], None]:
    """Writes particles in a format."""

    def make(folder: Path) -> None:
        out = place(folder, "example")
        write_particles(out / name if name else out, some_particles(), target, Known(VOXEL_SIZE))

    return make


def make_em(folder: Path) -> None:
    maker_of("em", "particles.em")(folder)
    for dtype in ("i1", "i2", "i4", "f4", "f8"):
        write_em(place(folder, dtype) / "particles.em", noise(BOX, BOX, BOX).astype(dtype))


PDB = "\n".join(
    [
        "HEADER    CHAPERONE                               01-JAN-20   1ABC",
        "REMARK 350 BIOMOLECULE: 1",
        "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A",
        "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000",
        "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000",
        "REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       30.00000",
        "REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000",
        "CRYST1   60.000   60.000   60.000  90.00  90.00  90.00 P 1           1",
        *(
            f"ATOM  {i:5d}  {name:<3} ALA A{i:4d}    {8 * np.sin(i):8.3f}{8 * np.cos(i):8.3f}{1.5 * i:8.3f}  1.00 20.00           {name[0]}  "
            for i, name in enumerate(["CA", "N", "O", "CB"] * 4, 1)
        ),
        "TER",
        "END",
        "",
    ]
)


def make_pdb(folder: Path) -> None:
    (place(folder, "plain") / "model.pdb").write_text(PDB)
    (place(folder, "gzip") / "model.pdb.gz").write_bytes(gzip.compress(PDB.encode()))


def make_cif(folder: Path) -> None:
    import gemmi

    structure = gemmi.read_pdb_string(PDB)
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string()
    (place(folder, "plain") / "model.cif").write_text(text)
    (place(folder, "gzip") / "model.cif.gz").write_bytes(gzip.compress(text.encode()))


def make_store(folder: Path) -> None:
    path, rows = folder / "example", Rows(4, 4)
    folder.mkdir(parents=True, exist_ok=True)
    names = (*BOX_ARRAYS, "label", "tomogram", "position", "snr")
    store = create_store(path, rows, Rows(0, 0), VOXEL_SIZE, BOX, CLASSES, {"seed": 0, "config": {"particles": 4}}, names)
    for name in names:
        array = store.array(name)
        store.write(name, 0, np.ones(array.shape, dtype=array.dtype))


def make_ome_zarr(folder: Path) -> None:
    for version in (2, 3):
        group = zarr.open_group(place(folder, f"version_{version}"), mode="w", zarr_format=version)
        array = group.create_array("0", shape=(10, 12, 14), dtype="float32", chunks=(5, 12, 14))
        array[:] = noise(10, 12, 14)
        image: dict[str, Any] = {
            "axes": [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [VOXEL_SIZE] * 3}]}],
        }
        group.attrs.update({"multiscales": [image]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [image]}})


def make_config(folder: Path) -> None:
    from triptych.settings import format_defaults

    for stage, kind in STAGES.items():
        (place(folder, stage) / "settings.yaml").write_text(format_defaults(kind), encoding="utf-8")
    (place(folder, "nested") / "settings.yaml").write_text("network: {tasks: [class, mask], channels: [8, 8, 8]}\nseed: 3\n")


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8, tasks=("class", "mask", "density"))
    card = ModelCard(network, CLASSES, VOXEL_SIZE, 16, "bright")
    Model(Network(network, len(CLASSES)), card, "cpu", "float32").save(folder / "example", TrainConfig(), [])


def hash_again(files: Files) -> Files:
    """The manifest of whoever gives away a model can say anything."""
    import hashlib

    try:
        manifest = json.loads(files[MANIFEST])
        manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in manifest["files"] if name in files}
    except (KeyError, ValueError, TypeError, AttributeError):
        return files
    return files | {MANIFEST: json.dumps(manifest).encode()}


def make_predictions(folder: Path) -> None:
    example, count = place(folder, "example"), 3
    names = [f"particle_{row:06d}" for row in range(count)]
    probabilities = np.full((count, len(CLASSES)), 1 / len(CLASSES), dtype=np.float32)
    columns = {f"triptychProbability{name.capitalize()}": probabilities[:, i] for i, name in enumerate(CLASSES)}
    found = {"triptychName": names, "triptychClass": ["one"] * count, "triptychProbability": probabilities[:, 0], **columns}
    write_star(example / "particles.star", {"particles": pd.DataFrame(found)})
    np.save(example / "embedding.npy", np.ones((count, 8), np.float32))
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(network, CLASSES, VOXEL_SIZE, 16, "bright").to_json()
    particles = {"path": "data.zarr", "kind": "store", "count": count, "voxel_size": VOXEL_SIZE, "contrast": "bright", "contrast_warning": None}
    about = {"particles": particles, "model": {**card, "name": "a", "sha256": hash_file(example / "embedding.npy")}, "device": "CPU"}
    write_manifest(example, "predict", PredictConfig(write_masks=False, write_densities=False), [], None, about)


def make_structures(folder: Path) -> None:
    example = place(folder, "source")
    (example / "one.pdb").write_text(PDB)
    make_library([f"one={example / 'one.pdb'}:assembly=none"], folder / "example")
    (example / "one.pdb").unlink()
    example.rmdir()


def make_index(folder: Path) -> None:
    example = place(folder, "example")
    rows = ("name,file,entry,kind,assembly,model,chains,mass", "one,one.pdb,1abc,atoms,none,1,A,", "two,one.pdb,,atoms,1,,first1,12.5", "")
    (example / "index.csv").write_text("\n".join(rows))
    (example / "one.pdb").write_text(PDB)


def make_annotated(folder: Path) -> None:
    example, labels = place(folder, "example"), np.zeros((16, 20, 24), dtype=np.int16)
    labels[4:8, 5:9, 6:10], labels[9:12, 12:15, 15:18] = 1, 2
    write_mrc(place(example, "tomograms") / "TS_01.mrc", Volume(noise(16, 20, 24).astype("f4"), VOXEL_SIZE))
    write_mrc(place(example, "labels") / "TS_01.mrc", Volume(labels, VOXEL_SIZE))  # type: ignore[arg-type]
    write_star(example / "labels" / "classes.star", {"classes": pd.DataFrame({"rlnClassNumber": [1, 2], "triptychClass": ["one", "two"]})})


FORMATS_READ: dict[str, Format] = {
    "MRC": Format(make_mrc, "map.mrc", (describe, read_volume, read_boxes, slice_tomogram, read_as_structure)),
    "MRC, gzip and bzip2": Format(make_compressed, "map.mrc", (describe, read_volume, read_boxes, read_as_structure)),
    "STAR and what it names": Format(make_star, "particles.star", (describe, read_boxes, convert, convert_as_it_is)),
    "Dynamo table": Format(maker_of("dynamo", "particles.tbl"), "particles.tbl", (convert, convert_as_it_is)),
    "EM and motive list": Format(make_em, "particles.em", (convert, read_em_map)),
    "IMOD model": Format(maker_of("imod", "models"), "models", (convert, convert_as_it_is)),
    "copick project": Format(maker_of("copick", "project"), "project", (convert, convert_as_it_is)),
    "CSV of particles": Format(maker_of("csv", "particles.csv"), "particles.csv", (convert, convert_as_it_is)),
    "CSV of structures": Format(make_index, "index.csv", (describe, read_index)),
    "PDB": Format(make_pdb, "*", (describe, read_as_structure, read_as_assembly)),
    "mmCIF": Format(make_cif, "*", (describe, read_as_structure, read_as_assembly)),
    "dataset store (Zarr)": Format(make_store, "", (describe, read_store, read_boxes)),
    "OME-Zarr": Format(make_ome_zarr, "", (slice_tomogram,)),
    "settings (YAML)": Format(make_config, "settings.yaml", (read_config,)),
    "model folder": Format(make_model, "", (describe, use_model), hash_again),
    "predictions": Format(make_predictions, "", (describe, read_predicted)),
    "structure library": Format(make_structures, "", (describe, read_library)),
    "annotated tomogram": Format(make_annotated, "", (read_labels,)),
}
