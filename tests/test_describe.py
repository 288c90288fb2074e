"""The doctor: each kind of file is recognised, and each thing that is wrong with it is said, with what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pandas as pd
import pytest
import zarr
from test_contrast import make_crowd, make_noise, remove_wedge
from test_source import make_tomogram, write_coordinates, write_images
from tiny import write_mrc, write_pdb

from triptych.alignment.identify import load_references
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io.convert import FORMATS, write_particles
from triptych.io.em import write_em
from triptych.io.particle_lists import Known
from triptych.io.relion import particle_columns, tomogram_row
from triptych.io.star import read_star, write_star
from triptych.io.store import Rows, create_store
from triptych.io.structure_files import structure_kind
from triptych.particles import Frame, Particles
from triptych.simulation.library import expand_specs


def test_what_predict_takes(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    facts = dict(describe_file(path).facts)
    assert (facts["particles"], facts["images"], facts["voxel size of the images"]) == ("3", "3 of 3 found", "10 Å")
    (tmp_path / "images" / "p1.mrc").unlink()
    assert "p1.mrc" in describe_file(path).warnings[0]
    make_tomogram(tmp_path)
    result = describe_file(tmp_path / "TS_1.mrc")
    assert dict(result.facts)["size"] == "40 x 30 x 20 voxels (x, y, z)"
    assert dict(result.facts)["grey values"].startswith("0 to 1.929e+05")
    assert dict(describe_file(write_coordinates(tmp_path, [1.0], [1.0], [1.0])).facts)["coordinates"].startswith("pixels of 2.5 Å")
    assert dict(describe_file(tmp_path / "images").facts)["files"] == "2"


def test_index_of_structures(tmp_path: Path) -> None:
    index = tmp_path / "structures.csv"
    index.write_text("name,file,entry\nfirst,first.pdb,1ABC\nsecond,second.pdb,\n")
    (tmp_path / "first.pdb").touch()
    result = describe_file(index)
    assert dict(result.facts)["structures"] == "2: first, second"
    assert dict(result.facts)["use"].startswith(f"triptych structures make {index} LIBRARY")
    assert len(result.warnings) == 1
    assert "1 of their files are not beside it (second.pdb)" in result.warnings[0]
    index.write_text("name,file\nfirst,first.pdb\nfirst,first.pdb\n")
    assert describe_file(index).warnings == ["More than one is called first: give each its own name."]
    for text in ("a,b\n1,2\n", "", "name,file\n"):
        index.write_text(text)
        with pytest.raises(InputError, match="no rows with the columns name and file"):
            describe_file(index)
    index.write_bytes(b"\xef\xbb\xbfname, file\nfirst, first.pdb\n")  # as Excel writes UTF-8
    assert (describe_file(index).warnings, len(expand_specs([str(index)]))) == ([], 1)
    index.write_bytes(b"name,file\n\xff,b\n")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        describe_file(index)


@pytest.mark.parametrize("name", ["a.pdb", "a.ENT.gz", "a.cif", "a.mmcif", "a.mrc", "a.map.gz", "a.map.bz2", "a.ccp4", "a.ccp4.gz"])
def test_a_structure_file_is_one_everywhere(name: str, tmp_path: Path) -> None:
    """To info, to a library folder and to `structures make`."""
    kind = structure_kind(tmp_path / name)
    if kind == "map":
        ball = np.exp(-np.linalg.norm(np.mgrid[:24, :24, :24] - 12, axis=0) ** 2 / 20)
        data = write_mrc(tmp_path / "x" / "a.mrc", ball, 10.0).read_bytes()
    else:
        data = write_pdb(tmp_path / "x.txt", residues=60, radius=20).read_bytes()
        if "cif" in name:
            data = gemmi.read_pdb_string(data.decode()).make_mmcif_document().as_string().encode()
    pack = {"gz": gzip.compress, "bz2": bz2.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(data))
    assert describe_file(tmp_path / name).kind == ("MRC volume" if kind == "map" else "PDB or mmCIF file of atoms")
    assert [item.name for item in load_references(tmp_path, 10.0)] == ["a"]


def test_warns(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.array([[[1, 5], [2, 3]]], dtype="f4"))
        file.voxel_size = 1
        file.data[0, 0, 1] = np.nan
    warnings = " ".join(describe_file(tmp_path / "a.mrc").warnings)
    assert "1 Å per voxel" in warnings
    assert "1 values are NaN" in warnings
    with pytest.raises(InputError, match="no kind"):
        describe_file(Path(__file__))
    with pytest.raises(InputError, match="does not exist"):
        describe_file(tmp_path / "nothing")


def test_real_particles(shared_data: Path) -> None:
    facts = dict(describe_file(shared_data / "ribosome_70s_real" / "particles.star").facts)
    assert "dark" in facts["contrast"]
    assert "little" not in facts["contrast"]
    result = describe_file(shared_data / "ribosome_70s_tilt_stacks" / "particles.star")
    assert dict(result.facts)["images"] == "20 of 20 found, stacks of 2-D tilt images"
    assert dict(result.facts)["boxes"] == "32 voxels"
    assert any("0 Å per voxel" in text for text in describe_file(shared_data / "tomograms_labelled" / "tomo01.mrc.gz").warnings)
    assert dict(describe_file(shared_data / "structures" / "3j9i.pdb.gz").facts)["chains"] == "28 in the first model"


def test_a_pixel_size_of_one_is_doubted(tmp_path: Path) -> None:
    assert not any("never set" in text for text in describe_file(write_images(tmp_path)).warnings)
    text = "rlnImagePixelSize .* exactly 1 Å, which usually means that it was never set"
    assert re.search(text, said(write_images(tmp_path, rlnImagePixelSize=1.0)))


def said(path: Path) -> str:
    return " ".join(describe_file(path).warnings)


# ----------------------------------------------------------------------------------------------------------- tomograms


def test_real_tomograms(shared_data: Path) -> None:
    assert "--set contrast=bright" in said(shared_data / "tomograms_real" / "microtubule_13pf.mrc.gz")
    assert "beam seems to be along y" in said(shared_data / "tomograms_real" / "emd_1155.map.gz")
    virions = dict(describe_file(shared_data / "tomograms_real" / "emd_1155.map.gz").facts)
    assert "dark" in virions["contrast"]
    assert "around z, beam along y" in virions["geometry"]
    simulated = describe_file(shared_data / "tomograms_labelled" / "tomo01.mrc.gz")
    assert len(simulated.warnings) == 1  # the voxel size
    assert "dark" in dict(simulated.facts)["contrast"]


def write_tomogram(path: Path, beam: int = 0, axis: int = 1) -> Path:
    """Dark balls in noise, without what tilts from -60° to 60° do not measure."""
    return write_mrc(path, remove_wedge(-make_crowd(), beam, axis, -60, 60).data[:, :, :76], 12.0)


def test_a_sound_tomogram_is_not_warned_of(tmp_path: Path) -> None:
    result = describe_file(write_tomogram(tmp_path / "TS_1.mrc"))
    assert result.warnings == []
    facts = dict(result.facts)
    assert "dark" in facts["contrast"]
    assert "around y, beam along z" in facts["geometry"]


def test_axes_that_are_exchanged(tmp_path: Path) -> None:
    assert "trimvol -rx" in said(write_tomogram(tmp_path / "a.mrc", 1, 0))
    assert "turn the volume by 90° about z" in said(write_tomogram(tmp_path / "b.mrc", 0, 2))
    assert "thinnest along y" in said(write_mrc(tmp_path / "c.mrc", make_noise(90)[:, :40], 10.0))


def test_a_folder_of_tomograms_is_no_folder_of_subtomograms(tmp_path: Path) -> None:
    """Cubes of 960 Å, one of them a label map."""
    write_mrc(tmp_path / "a_labels.mrc", (make_crowd() > 3).astype(np.float32), 12.0)
    write_mrc(tmp_path / "b.mrc", remove_wedge(-make_crowd(), 0, 1, -60, 60).data, 12.0)
    facts = dict(describe_file(tmp_path).facts)
    assert facts["use"].startswith("tomograms")
    assert (facts["label maps or masks"], facts["first tomogram"]) == ("1 of 2", "b.mrc")
    assert "parts of the tomogram" in facts["contrast"]


def test_label_maps_have_no_contrast(tmp_path: Path) -> None:
    labels = (make_crowd() > 3).astype(np.float32) * 7
    facts = dict(describe_file(write_mrc(tmp_path / "labels.mrc", labels, 12.0)).facts)
    assert "label map" in facts["content"]
    assert "contrast" not in facts


def test_dataset_with_infinite_values_and_other_snr_of_none(tmp_path: Path) -> None:
    boxes = np.ones((3, 8, 8, 8))
    boxes[1, 2, 3, 4] = np.inf
    store = create_store(tmp_path / "data.zarr", Rows(3, 3), Rows(0, 0), 10.0, 8, ("a", "none"), {}, ("subtomogram", "label", "tomogram", "snr"))
    for name, values in (("subtomogram", boxes), ("label", [0, 0, 1]), ("tomogram", [0, 0, 0]), ("snr", [0.1, 0.1, 0.02])):
        store.write(name, 0, np.array(values))
    result = describe_file(tmp_path / "data.zarr")
    facts = dict(result.facts)
    assert (facts["SNR"], facts['SNR of "none"']) == tuple(f"{snr} to {snr}, var(signal) / var(noise)" for snr in (0.1, 0.02))
    assert "1 of 3 subtomograms" in result.warnings[0]


@pytest.mark.parametrize("name", [".data.zarr.part", "model.training"])
def test_what_an_unfinished_run_works_in(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="unfinished"):
        describe_file(tmp_path / name)


def test_ome_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", data=make_crowd()[:40])
    image = {"axes": [{"name": name} for name in "zyx"], "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [image]
    result = describe_file(tmp_path / "a.zarr")
    assert result.kind == "OME-Zarr image"
    assert any("voxel size" in text for text in result.warnings)
    image["datasets"] = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [12.0] * 3}]}]  # type: ignore[list-item]
    group.attrs["multiscales"] = [image]
    assert dict(describe_file(tmp_path / "a.zarr").facts)["voxel size"] == "12 Å"


# --------------------------------------------------------------------------------------------------------------- lists


def write_run(folder: Path, tilts: tuple[float, float] = (-60, 60), voxel_size: float = 12.0, shift: float = 0.0) -> Path:
    """A tomogram, particles in it, and tables that speak of it."""
    path = write_tomogram(folder / "tomograms" / "TS_1.mrc")
    places = np.array([[100.0, 200, 300], [400, 500, 600]]) + shift
    columns = particle_columns(places, np.broadcast_to(np.eye(3), (2, 3, 3)), Frame.of((80, 80, 76), 12.0))
    write_star(folder / "particles.star", {"particles": pd.DataFrame({"rlnTomoName": "TS_1", **columns})})
    row = tomogram_row("TS_1", f"tomograms/{path.name}", Frame.of((80, 80, 76), voxel_size))
    write_star(folder / "tomograms.star", {"global": pd.DataFrame([row])})
    write_star(folder / "tilts.star", {"tilts": pd.DataFrame({"rlnTomoName": "TS_1", "rlnTomoNominalStageTiltAngle": tilts})})
    return folder


def test_tables_that_agree(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    for name in ("particles.star", "tomograms.star", "tomograms/TS_1.mrc"):
        assert describe_file(folder / name).warnings == []
    assert dict(describe_file(folder / "particles.star").facts)["tomograms' files"].startswith("all 1 found")
    assert describe_file(folder / "tomograms.star").kind == "STAR file of tomograms"


@pytest.mark.parametrize("name", ["particles.star", "tomograms.star", "tomograms/TS_1.mrc"])
def test_tables_that_disagree(name: str, tmp_path: Path) -> None:
    assert "12 Å per voxel, but tomograms.star 6 Å" in said(write_run(tmp_path / "a", voxel_size=6.0) / name)
    assert "tilts from -40° to 40°" in said(write_run(tmp_path / "b", tilts=(-40, 40)) / name)


def test_a_list_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star, files = write_run(tmp_path) / "particles.star", list[Path]()
    for module in ("io.relion", "describing.particles"):
        monkeypatch.setattr(f"triptych.{module}.read_star", lambda path: files.append(Path(path)) or read_star(path))
    assert describe_file(star).kind == "STAR file of particles"
    assert files.count(star) == 1


def test_particles_outside(tmp_path: Path) -> None:
    warnings = said(write_run(tmp_path, shift=600.0) / "particles.star")
    assert "1 particle outside the tomogram as the table" in warnings
    assert "1 of 2 particles lie outside TS_1.mrc" in warnings


def test_images_whose_headers_disagree(tmp_path: Path) -> None:
    star = write_images(tmp_path)
    write_mrc(tmp_path / "images" / "p1.mrc", np.random.default_rng(0).normal(size=(24, 24, 24)), 13.0)
    assert "p1.mrc states 13 Å per voxel, but the STAR file 10 Å" in said(star)


@pytest.mark.parametrize(
    ("target", "name"), [("dynamo", "a.tbl"), ("em", "a.em"), ("imod", "a.mod"), ("imod", "a"), ("csv", "a.csv"), ("copick", "a")]
)
def test_other_programs_lists(target: str, name: str, tmp_path: Path) -> None:
    places = np.array([[100.0, 200, 300], [400, 500, 600]])
    particles = Particles(
        pd.DataFrame(index=range(2)),
        places,
        np.broadcast_to(np.eye(3), (2, 3, 3)),
        tomograms=["7", "7"],
        classes=["1", "2"],
        frames={"7": Frame((100, 100, 100), 10.0)},
    )
    write_particles(tmp_path / name, particles, target, Known(voxel_size=10.0))
    result = describe_file(tmp_path / name)
    assert result.kind == {"csv": "CSV file of particles"}.get(target, FORMATS[target].title)
    facts = dict(result.facts)
    assert facts["particles"] == "2"
    assert facts["extent"].startswith("x 10 to 40 pixels" if target == "em" else "x 100 to 400 Å")
    assert any("--input-voxel-size" in text for text in result.warnings) == (target == "em")


def test_an_em_file_may_be_a_volume(tmp_path: Path) -> None:
    write_em(tmp_path / "a.em", make_noise(8))
    assert describe_file(tmp_path / "a.em").kind == "EM volume"
    assert "convert it to MRC" in said(tmp_path / "a.em")


def test_picks_are_called_picks(tmp_path: Path) -> None:
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({"rlnTomoName": ["TS_1"] * 2, "triptychScore": [0.5, 0.7]})})
    np.save(tmp_path / "embedding.npy", np.zeros((2, 4)))
    manifest = {"triptych": "0.1", "stage": "predict", "created": "now", "contrast_warnings": ["TS_1: CONTRAST LOOKS INVERTED"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert describe_file(tmp_path).kind == "triptych predictions"
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "stage": "pick"}))
    result = describe_file(tmp_path)
    assert result.kind == "triptych picks"
    assert dict(result.facts)["tomograms with particles"] == "TS_1 2"
    assert result.warnings == ["TS_1: CONTRAST LOOKS INVERTED"]
