"""Structures: potentials against gemmi's structure factors, assemblies, maps, the library, downloads."""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from scipy import ndimage

from triptych.errors import InputError
from triptych.fourier import frequency_grid
from triptych.io.fetch import fetch_entries
from triptych.io.files import read_json
from triptych.io.mrc import read_mrc, write_mrc
from triptych.simulation.library import (
    BUILT_IN_LIBRARY,
    CLASS_ENTRIES,
    class_entries,
    expand_specs,
    fetch_classes,
    load_library,
    make_library,
    write_library,
)
from triptych.simulation.potential import ATOM_VOLUMES, PROTEIN_CONTRAST, VOLTS, count_atoms, excess_potential, potential, soft_band_limit
from triptych.simulation.structures import HYDRATED_VOLUME, parse_structure_spec, read_structure, structure_from_map
from triptych.volume import Volume, crop_or_pad

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared" / "data" / "structures"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/structures beside the checkout")

# kDa; from the sequences or the literature, allowing for what is not modelled and, for maps, for an estimate good to 20 %
MASSES = {
    "ribosome_70s": (2100, 2500),
    "ribosome_80s": (2200, 3000),
    "ribosome_50s": (1250, 1500),
    "ribosome_30s": (700, 900),
    "proteasome_20s": (640, 720),
    "tric": (880, 980),
    "groel": (780, 810),
    "groel_groes": (820, 880),
    "apoferritin": (440, 490),
    "rubisco": (500, 560),
    "rna_polymerase_2": (420, 520),
    "aminopeptidase_a": (320, 340),
    "nucleosome": (175, 210),
    "cand1_cul1": (210, 230),
    "hsp90_sba1": (160, 190),
    "hsp110_hsc70": (105, 125),
    "spike": (350, 450),
    "rymv_capsid": (3700, 4900),
    "proteasome_26s": (1100, 2500),
    "proteasome_20s_capped": (800, 950),
    "ribosome_80s_yeast": (2500, 3300),
    "atp_synthase": (700, 900),
    "beta_galactosidase": (440, 510),
    "thyroglobulin": (600, 730),
    "pp7_vlp": (2500, 4200),
    "nmda_receptor": (340, 400),
    "groel_em": (640, 840),
}

HALVES = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       80.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
"""
PART = "".join(line for line in HALVES.replace("A, B", "A").splitlines(keepends=True) if " 2 " not in line)


def alanines(count: int = 60, seed: int = 0, chain: str = "A", serial: int = 1, atoms: str = "N CA C O CB", offset: float = 0.0) -> str:
    """A chain of alanines scattered in a ball of 20 Å, as lines of a PDB file."""
    rng = np.random.default_rng(seed)
    lines = []
    for residue in range(1, count + 1):
        place = rng.normal((offset, 0, 0), 9)
        for name in ("N", "CA", "C", "O", "CB"):
            x, y, z = place + rng.normal(0, 1, 3)
            if name in atoms.split():
                lines.append(f"ATOM  {serial:5d}  {name:<3s} ALA {chain}{residue:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2s}")
                serial += 1
    return "\n".join(lines) + "\n"


def save(path: Path, *parts: str) -> Path:
    path.write_text("".join(parts) + "END\n")
    return path


@pytest.fixture
def peptide(tmp_path: Path) -> Path:
    return save(tmp_path / "peptide.pdb", alanines())


def read_counts(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return count_atoms(gemmi.FlatStructure(gemmi.read_structure(str(path))))


# ------------------------------------------------------------------------------------------------------------ potential


@pytest.mark.parametrize("voxel_size", [3.0, 10.0])
def test_potential_has_the_structure_factors_that_gemmi_calculates(peptide: Path, voxel_size: float) -> None:
    molecule = gemmi.read_structure(str(peptide))
    size = 2 * int(np.ceil(50 / voxel_size))
    edge = size * voxel_size
    molecule.cell = gemmi.UnitCell(edge, edge, edge, 90, 90, 90)
    calculator = gemmi.StructureFactorCalculatorE(molecule.cell)
    positions, counts = read_counts(peptide)
    counts.pop("H")  # the file has none
    result = np.fft.rfftn(np.fft.ifftshift(potential(positions, counts, size, voxel_size))) * voxel_size**3 / VOLTS
    result /= soft_band_limit(frequency_grid((size,) * 3, voxel_size), voxel_size)
    rng = np.random.default_rng(1)
    for h, k, m in rng.integers(-size // 2 + 1, size // 2, (40, 3)):
        h = abs(h)
        expected = np.conj(calculator.calculate_sf_from_model(molecule[0], [int(h), int(k), int(m)]))
        assert abs(result[m, k, h] - expected) < 0.006 * abs(result[0, 0, 0])


def test_integral_is_the_total_scattering(peptide: Path) -> None:
    positions, counts = read_counts(peptide)
    total = sum(gemmi.Element(symbol).c4322.calculate_sf(0) * column.sum() for symbol, column in counts.items())
    assert potential(positions, counts, 12, 10.0).sum() * 1000 == pytest.approx(VOLTS * total, rel=1e-4)
    displaced = sum(ATOM_VOLUMES[symbol] * column.sum() for symbol, column in counts.items())
    assert excess_potential(positions, counts, 12, 10.0).sum() * 1000 * PROTEIN_CONTRAST == pytest.approx(VOLTS * total - 4.53 * displaced, rel=1e-3)


def test_nucleic_acid_stands_out_from_protein() -> None:
    inside = {}
    for kind, residue in (("protein", "ALA"), ("nucleic acid", "U")):
        info = gemmi.find_tabulated_residue(residue)
        assert info.weight > 0
        composition = {"ALA": {"C": 3, "H": 5, "N": 1, "O": 1}, "U": {"C": 9, "H": 11, "N": 2, "O": 8, "P": 1}}[residue]
        volts = VOLTS * sum(number * gemmi.Element(symbol).c4322.calculate_sf(0) for symbol, number in composition.items())
        volume = sum(number * ATOM_VOLUMES[symbol] for symbol, number in composition.items())
        inside[kind] = (volts / volume - 4.53) / PROTEIN_CONTRAST
    assert inside["protein"] == pytest.approx(1, abs=0.1)
    assert 1.3 < inside["nucleic acid"] < 1.8


def test_density_moves_and_turns_with_the_atoms(tmp_path: Path, peptide: Path) -> None:
    plain = read_structure(peptide)
    molecule = gemmi.read_structure(str(peptide))
    # 90° about z, x, y, z -> -y, x, z, and a shift; all to the three decimals of a PDB file
    turn = gemmi.Transform(gemmi.Mat33([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), gemmi.Vec3(100, -200, 50))
    molecule[0].transform_pos_and_adp(turn)
    molecule.write_pdb(str(tmp_path / "turned.pdb"))
    turned = read_structure(tmp_path / "turned.pdb")
    assert turned.mass_kda == pytest.approx(plain.mass_kda)
    assert turned.contour == pytest.approx(plain.contour, rel=1e-5)
    n = plain.density.shape[0]
    z, y, x = np.mgrid[1:n, 1:n, 1:n]  # index 0 has no partner across the centre
    assert np.allclose(turned.density.data[z, x, n - y], plain.density.data[z, y, x], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ selection


def test_mass_counts_hydrogens_and_whole_residues(tmp_path: Path) -> None:
    expected = (gemmi.calculate_sequence_weight(["ALA"] * 60) - 18.015) / 1e3
    assert read_structure(save(tmp_path / "full.pdb", alanines())).mass_kda == pytest.approx(expected, rel=2e-3)
    assert read_structure(save(tmp_path / "trace.pdb", alanines(atoms="CA"))).mass_kda == pytest.approx(expected, rel=2e-3)
    hydrogens = alanines().replace("  CB  ALA", "  HA  ALA").replace(" C\n", " C\n")
    lines = [line[:76] + " H" if "  HA  " in line else line for line in hydrogens.splitlines()]
    with_hydrogens = read_structure(save(tmp_path / "hydrogens.pdb", "\n".join(lines) + "\n"))
    without = read_structure(save(tmp_path / "without.pdb", alanines(atoms="N CA C O")))
    assert with_hydrogens.mass_kda == pytest.approx(without.mass_kda)


def test_waters_and_second_conformations_do_not_count(tmp_path: Path) -> None:
    plain = alanines(30)
    first = plain.splitlines()[4]
    water = "HETATM  900  O   HOH B   1      10.000  10.000  10.000  1.00  0.00           O\n"
    double = plain.replace(first, first[:16] + "A" + first[17:] + "\n" + first[:16] + "B" + first[17:])
    structure = read_structure(save(tmp_path / "a.pdb", double, water))
    assert structure.mass_kda == pytest.approx(read_structure(save(tmp_path / "b.pdb", plain)).mass_kda)


def test_assembly_is_applied_only_where_it_adds_atoms(tmp_path: Path) -> None:
    chains = alanines(40), alanines(40, seed=1, chain="B", serial=301, offset=5)
    bare = read_structure(save(tmp_path / "bare.pdb", *chains)).mass_kda
    whole, partial = save(tmp_path / "whole.pdb", HALVES, *chains), save(tmp_path / "partial.pdb", PART, *chains)
    assert read_structure(whole).mass_kda == pytest.approx(2 * bare)
    assert read_structure(whole, assembly="none").mass_kda == pytest.approx(bare)
    assert read_structure(partial).mass_kda == pytest.approx(bare)
    assert read_structure(partial, assembly="1").mass_kda == pytest.approx(bare / 2)
    with pytest.raises(InputError, match=r"no assembly '7', only 1"):
        read_structure(whole, assembly="7")


def test_chains_and_models_are_chosen(tmp_path: Path) -> None:
    first, second = alanines(20), alanines(40, seed=1, chain="B", serial=201)
    path = save(tmp_path / "two.pdb", f"MODEL        1\n{first}{second}ENDMDL\nMODEL        2\n{first}ENDMDL\n")
    one = read_structure(path, model=2).mass_kda
    assert read_structure(path).mass_kda == pytest.approx(3 * one)
    assert read_structure(path, chains=1).mass_kda == pytest.approx(one)
    assert read_structure(path, chains=["B"]).mass_kda == pytest.approx(2 * one)
    for wrong in ({"model": 3}, {"chains": ["Z"]}, {"chains": 3}):
        with pytest.raises(InputError):
            read_structure(path, **wrong)


def test_mmcif_and_gzip_read_alike(tmp_path: Path, peptide: Path) -> None:
    molecule = gemmi.read_structure(str(peptide))
    molecule.setup_entities()
    document = molecule.make_mmcif_document().as_string()
    (tmp_path / "peptide.cif.gz").write_bytes(gzip.compress(document.encode()))
    (tmp_path / "peptide.ent.gz").write_bytes(gzip.compress(peptide.read_bytes()))
    plain = read_structure(peptide)
    for name in ("peptide.cif.gz", "peptide.ent.gz"):
        again = read_structure(tmp_path / name)
        assert again.name == "peptide"
        assert np.allclose(again.density.data, plain.density.data, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------- maps


@pytest.fixture(scope="module")
def complexes() -> dict[str, tuple[Volume, float]]:
    """Two built-in structures as maps of another grid, with noise, off the centre, on another grey scale; and their mass."""
    rng = np.random.default_rng(0)
    maps = {}
    for structure in load_library():
        if structure.name in ("groel_groes", "rymv_capsid"):
            data = np.pad(structure.density.data, ((9, 4), (5, 11), (6, 9)))
            maps[structure.name] = Volume((40 + 300 * (data + rng.normal(0, 0.1, data.shape))).astype(np.float32), 10.0), structure.mass_kda
    return maps


@pytest.mark.parametrize("name", ["groel_groes", "rymv_capsid"])
@pytest.mark.parametrize("inverted", [False, True])
def test_map_becomes_what_atoms_give(complexes: dict[str, tuple[Volume, float]], name: str, inverted: bool) -> None:
    volume, mass = complexes[name]
    original = next(structure for structure in load_library() if structure.name == name)
    structure = structure_from_map(volume.with_data(-volume.data) if inverted else volume, 10.0, name, "a map")
    assert structure.mass_kda == pytest.approx(mass, rel=0.35)  # blurred twice, so too much
    size = structure.density.shape
    expected = crop_or_pad(original.density.data, size, 0.0)
    assert np.corrcoef(structure.density.data.ravel(), expected.ravel())[0, 1] > 0.97
    assert structure.contour == pytest.approx(original.contour, rel=0.3)
    assert (structure.density.data > structure.contour).sum() * 1e3 == pytest.approx(structure.mass_kda * 1e3 * HYDRATED_VOLUME, rel=0.02)
    given = structure_from_map(volume, 10.0, name, "a map", mass_kda=mass)
    assert given.mass_kda == mass


def test_map_that_cuts_the_molecule_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """As a tomogram does, which a whole complex of 21 MDa was read from without a word."""
    density = next(structure for structure in load_library() if structure.name == "groel").density
    structure_from_map(density, 10.0, "whole", "a whole map")
    assert "reaches the wall" not in caplog.text
    middle = density.shape[0] // 2
    structure_from_map(density.with_data(density.data[:, :, :middle]), 10.0, "half", "half a map")
    assert "half a map: what was taken for the molecule" in caplog.text


def test_map_is_resampled_at_any_voxel_size() -> None:
    structure = next(structure for structure in load_library() if structure.name == "apoferritin")
    fine = structure_from_map(structure.density, 7.3, "apoferritin", "a map", mass_kda=structure.mass_kda)
    assert fine.density.voxel_size == 7.3
    assert fine.density.shape[0] % 2 == 0
    middle = fine.density.shape[0] // 2
    assert np.allclose(ndimage.center_of_mass(np.maximum(fine.density.data, 0)), middle, atol=0.05)
    # the shell's wall lies at the same radius
    line = fine.density.data[middle, middle, middle:]
    assert abs(line.argmax() * 7.3 - structure.density.data[10, 10, 10:].argmax() * 10) < 7.3


def test_map_contour_gives_the_mass(tmp_path: Path) -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    ball = ((x - 22) ** 2 + (y - 18) ** 2 + (z - 20) ** 2 < 100).astype(np.float32)
    write_mrc(tmp_path / "ball.mrc", Volume(ball, 4.0))
    structure = read_structure(tmp_path / "ball.mrc", map_contour=0.5)
    assert structure.mass_kda == pytest.approx(ball.sum() * 64 / 1.21 / 1e3, rel=1e-3)
    with pytest.raises(InputError, match="lower contour"):
        read_structure(tmp_path / "ball.mrc", map_contour=2.0)


# ------------------------------------------------------------------------------------------------------- specs, library


def test_spec_names_all_parts() -> None:
    spec = parse_structure_spec("tric=some/4v8r.pdb.gz:assembly=none:chains=first16:model=2:mass=950.5")
    assert (spec.name, spec.path, spec.assembly, spec.chains, spec.model, spec.mass_kda) == ("tric", Path("some/4v8r.pdb.gz"), "none", 16, 2, 950.5)
    assert parse_structure_spec("4v8r.pdb:chains=A+BB").chains == ("A", "BB")
    plain = parse_structure_spec("C:/maps/a=b.map")
    assert (plain.name, plain.path) == (None, Path("C:/maps/a=b.map"))
    for wrong in ("a=b.pdb:colour=red", "a=b.pdb:model=x"):
        with pytest.raises(InputError):
            parse_structure_spec(wrong)


def test_origin_lays_a_structure_over_its_file(tmp_path: Path) -> None:
    def middle(volume: Volume, least: float = 0) -> np.ndarray:
        return ndimage.center_of_mass(np.where(volume.data > least, volume.data, 0))[::-1] * np.array(volume.voxel_size) + volume.origin

    path = save(tmp_path / "far.pdb", alanines(offset=200.0))
    atoms = np.array([list(site.atom.pos) for site in gemmi.read_structure(str(path))[0].all()])
    (made,) = make_library([str(path)], tmp_path / "atoms", voxel_size=3.0)
    written = read_mrc(tmp_path / "atoms" / "far.mrc")
    assert np.allclose(middle(written), atoms.mean(0), atol=1)
    moved = Volume(np.roll(crop_or_pad(made.density.data, (48, 48, 48), 0), (2, 4, 6), (0, 1, 2)), 3.0, (70.0, -20.0, 30.0))
    of_map = structure_from_map(moved, 5.0, "map", "map", mass_kda=made.mass_kda)
    assert np.allclose(middle(of_map.density, of_map.contour), middle(moved, made.contour), atol=1)


def test_library_round_trip(tmp_path: Path, peptide: Path) -> None:
    made = make_library([f"first={peptide}", f"second={peptide}:mass=7:source=a guess"], tmp_path / "library", voxel_size=8.0)
    loaded = load_library(tmp_path / "library")
    assert [item.name for item in loaded] == [item.name for item in made] == ["first", "second"]
    assert (loaded[1].mass_kda, loaded[1].source, loaded[0].source) == (7, "a guess", "peptide")
    for a, b in zip(made, loaded, strict=True):
        assert np.array_equal(a.density.data, b.density.data)
        assert b.density.voxel_size == 8.0
        assert b.contour == pytest.approx(a.contour, abs=1e-5)
    with pytest.raises(InputError, match="exists"):
        write_library(made, tmp_path / "library")
    with pytest.raises(InputError, match="there is a class 'peptide' already"):
        make_library([str(peptide), str(peptide)], tmp_path / "twice")
    assert not list(tmp_path.glob("*twice*"))


def test_libraries_that_make_no_sense_are_refused(tmp_path: Path, peptide: Path) -> None:
    (tmp_path / "empty.csv").write_text("name,file\n")
    cases: list[tuple[str, float, str]] = [
        (str(tmp_path / "empty.csv"), 10.0, "has no rows"),
        (f"membrane={peptide}", 10.0, "a meaning of its own"),
        (str(peptide), 500.0, "from 0.5 to 50"),
        (str(peptide), 0.01, "from 0.5 to 50"),
        (f"{peptide}:contour=1", 10.0, "contour= means nothing"),
        (f"two words={peptide}", 10.0, "cannot be called 'two words'"),
    ]
    for spec, voxel_size, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            make_library([spec], tmp_path / "library", voxel_size)
    for names in (("a-b", "a_b"), ("None",)):
        with pytest.raises(InputError, match="differ in punctuation"):
            make_library([f"{name}={peptide}" for name in names], tmp_path / "library")
    assert not (tmp_path / "library").exists()


def test_index_of_structures(tmp_path: Path, peptide: Path) -> None:
    (tmp_path / "index.csv").write_text(
        "name,file,kind,entry,voxel_size_A,note,chains\n"
        "a,peptide.pdb,atoms,1ABC,,a note,first1\n"
        "b,x.mrc,density,EMD-1,2.5,,\n"
        "c,x.mrc,density,4CR2,5,,\n"
    )
    first, second, third = expand_specs([str(tmp_path / "index.csv")])
    assert (first.name, first.path, first.source, first.chains) == ("a", peptide, "PDB 1ABC", 1)
    assert (second.map_voxel_size, second.source, third.source) == (2.5, "EMD-1", "PDB 4CR2 (map)")


def bad_files(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    save(folder / "empty.pdb", "REMARK nothing\n")
    save(folder / "good.pdb", alanines())
    save(folder / "hydrogen.pdb", alanines(1, atoms="N").replace(" N\n", " H\n"))
    save(folder / "one.pdb", alanines(1, atoms="CA"))
    (folder / "cut.pdb.gz").write_bytes(gzip.compress(alanines(200).encode())[:3000])
    (folder / "cut.cif.gz").write_bytes(b"\x1f\x8b" + bytes(40))
    (folder / "noise.cif").write_bytes(bytes(range(256)))
    write_mrc(folder / "unset.mrc", Volume(np.eye(8, dtype=np.float32)[:, None].repeat(8, 1), 2.0))
    raw = bytearray((folder / "unset.mrc").read_bytes())
    raw[40:52] = bytes(12)
    (folder / "unset.mrc").write_bytes(raw)
    (folder / "cut.map.gz").write_bytes(gzip.compress(bytes(raw))[:120])
    write_mrc(folder / "flat.mrc", Volume(np.ones((8, 8, 8), np.float32), 2.0))
    return {
        "is not a file": (folder / "missing.pdb", {}),
        "no atoms": (folder / "empty.pdb", {}),
        "heavier than hydrogen": (folder / "hydrogen.pdb", {}),
        "has 1 atom of 0.07": (folder / "one.pdb", {}),
        "cannot be read as PDB or mmCIF": (folder / "cut.pdb.gz", {}),
        "cannot be read as PDB": (folder / "cut.cif.gz", {}),
        "noise.cif": (folder / "noise.cif", {}),
        "nor any other": (folder / "good.pdb", {"assembly": "1"}),
        "between 0.1 and 1000": (folder / "good.pdb", {"voxel_size": 0.0}),
        "larger voxel size": (folder / "good.pdb", {"voxel_size": 0.1}),
        "cannot be called 'none'": (folder / "good.pdb", {"name": "none"}),
        "cannot be called 'a/b'": (folder / "good.pdb", {"name": "a/b"}),
        "kDa": (folder / "good.pdb", {"mass_kda": -1.0}),
        "unset.mrc:voxel_size=": (folder / "unset.mrc", {}),
        "cut.map.gz": (folder / "cut.map.gz", {"map_voxel_size": 2.0}),
        "same value everywhere": (folder / "flat.mrc", {}),
    }


def test_bad_input_is_explained_in_one_sentence(tmp_path: Path) -> None:
    for words, (path, options) in bad_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_structure(path, **options)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not a structure library"):
        load_library(tmp_path)
    (tmp_path / "library.json").write_text('[{"name": "a"}]')
    with pytest.raises(InputError, match="not the index"):
        load_library(tmp_path)
    (tmp_path / "library.json").write_text("[]")
    with pytest.raises(InputError, match="lists no structures"):
        load_library(tmp_path)


def test_built_in_library() -> None:
    library = load_library()
    assert [item.name for item in library] == list(MASSES)[:18]
    assert sum(file.stat().st_size for file in BUILT_IN_LIBRARY.iterdir()) < 2_000_000
    for item in library:
        data, n = item.density.data, item.density.shape[0]
        low, high = MASSES[item.name]
        assert low < item.mass_kda < high
        assert item.source.startswith("PDB ")
        assert item.density.voxel_size == 10.0
        assert item.density.shape == (n, n, n)
        assert n % 2 == 0
        assert np.allclose(ndimage.center_of_mass(np.maximum(data, 0)), n // 2, atol=0.1)
        assert 0.75 < data.max() < 1.25
        assert data.min() > -0.02  # nothing rings
        shell = np.ones(data.shape, bool)
        shell[1:-1, 1:-1, 1:-1] = False
        assert np.abs(data[shell]).max() < 0.02
        assert (data > item.contour).sum() == pytest.approx(item.mass_kda * HYDRATED_VOLUME, rel=0.01)  # half precision


# --------------------------------------------------------------------------------------------------- the real structures


def build_script() -> list[tuple[str, str, str]]:
    spec = importlib.util.spec_from_file_location("build_structures", REPOSITORY / "scripts" / "build_structures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [(name, str(module.find_file(SHARED, entry)), options) for name, entry, options in module.STRUCTURES]


@needs_shared
def test_built_in_library_is_what_its_script_builds() -> None:
    built_in = {item.name: item for item in load_library()}
    for name, file, options in build_script():
        (spec,) = expand_specs([f"{name}={file}{options}"])
        structure = read_structure(**vars(spec))
        assert structure.mass_kda == pytest.approx(built_in[name].mass_kda, rel=1e-4)
        assert structure.contour == pytest.approx(built_in[name].contour, abs=1e-3)
        assert np.allclose(structure.density.data, built_in[name].density.data, atol=2e-3)
        if options:  # the default finds the same where the file does not hold two complexes
            plain = read_structure(file)
            assert (plain.mass_kda == pytest.approx(structure.mass_kda)) == (name not in ("tric", "hsp110_hsc70"))


@needs_shared
def test_every_map_of_the_index_loads() -> None:
    index = expand_specs([str(SHARED / "structures.csv")])
    assert [spec.name for spec in index] == list(MASSES)
    specs = [spec for spec in index if spec.map_voxel_size is not None]
    assert len(specs) == 9
    for spec in specs:
        structure = read_structure(**vars(spec))
        low, high = MASSES[structure.name]
        assert low < structure.mass_kda < high
        n = structure.density.shape[0]
        assert np.allclose(ndimage.center_of_mass(np.maximum(structure.density.data, 0)), n // 2, atol=0.5)
        assert 0.25 < structure.contour < 0.4


# ------------------------------------------------------------------------------------------------------------- download


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine with one entry of either kind; its address and folder."""
    root = tmp_path / "www"
    (root / "EMD-1997" / "map").mkdir(parents=True)
    (root / "EMD-1997" / "header").mkdir()
    (root / "1abc.cif.gz").write_bytes(gzip.compress(b"data_1ABC\n"))
    (root / "2abc.cif.gz").write_bytes(b"<html>please log in</html>")
    (root / "EMD-1997" / "map" / "emd_1997.map.gz").write_bytes(gzip.compress(b"map"))
    (root / "EMD-1997" / "header" / "emd-1997.xml").write_text("<emd/>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", root
        server.shutdown()
        thread.join()


def test_entries_are_fetched_once(mirror: tuple[str, Path], tmp_path: Path) -> None:
    url, root = mirror
    seen: list[tuple[int, int]] = []
    fetch = functools.partial(fetch_entries, cache=tmp_path / "cache", pdb_url=url, emdb_url=url)
    paths = fetch(["1ABC", "emd-1997"], tmp_path / "out", on_progress=lambda *progress: seen.append(progress))
    assert [path.name for path in paths] == ["1abc.cif.gz", "emd_1997.map.gz", "emd-1997.xml"]
    assert gzip.decompress(paths[0].read_bytes()) == b"data_1ABC\n"
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (root / "1abc.cif.gz").unlink()
    assert fetch(["1abc"], tmp_path / "again")[0].is_file()
    for wrong, words in (("3ABC", "404"), ("2ABC", "gzip"), ("ribosome", "no identifier")):
        with pytest.raises(InputError, match=words):
            fetch([wrong], tmp_path / "wrong")
    assert not list((tmp_path / "cache").glob("*.part"))
    assert not (tmp_path / "cache" / "2abc.cif.gz").exists()


def test_no_network_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        fetch_entries(["1ABC"], tmp_path / "out", cache=tmp_path / "cache", pdb_url="http://127.0.0.1:9")


def test_classes_that_are_not_built_in_are_made_of_their_entries(
    mirror: tuple[str, Path], tmp_path: Path, peptide: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, root = mirror
    molecule = gemmi.read_structure(str(peptide))
    molecule.setup_entities()
    (root / "1abc.cif.gz").write_bytes(gzip.compress(molecule.make_mmcif_document().as_string().encode()))
    mass = read_structure(peptide).mass_kda
    rows = [f"right,1ABC,auto,{1.2 * mass},", f"heavy,1ABC,auto,{0.5 * mass},", f"absent,1ABC,2,{mass},"]
    (tmp_path / "entries.csv").write_text("\n".join(["name,entry,assembly,mass_kda,note", *rows]) + "\n")
    monkeypatch.setattr("triptych.simulation.library.CLASS_ENTRIES", tmp_path / "entries.csv")
    found = fetch_classes(tmp_path / "library", tmp_path / "cache", pdb_url=url)
    assert [item.name for item in found] == [*(item.name for item in load_library()), "right"]
    assert load_library(tmp_path / "library")[-1].source == "PDB 1ABC"
    assert "heavy is left out: PDB 1ABC, assembly auto, has" in caplog.text
    assert "absent is left out" in caplog.text
    assert np.array_equal(load_library(tmp_path / "library")[0].density.data, load_library()[0].density.data)
    with pytest.raises(InputError, match="cannot be reached"):
        fetch_classes(tmp_path / "none", tmp_path / "empty", pdb_url="http://127.0.0.1:9")
    assert not (tmp_path / "none").exists()


def test_every_class_of_the_shipped_model_has_a_structure() -> None:
    names = read_json(CLASS_ENTRIES.with_name("model.json"), "model card")["class_names"]
    entries = class_entries()
    assert [item.name for item in load_library()] + [row["name"] for row in entries] == [name for name in names if name != "none"]
    for row in entries:
        low, high = MASSES[row["name"]]
        assert low < float(row["mass_kda"]) < high
        assert row["entry"] in CLASS_ENTRIES.with_name("README.md").read_text()


def test_cache_folder_can_be_chosen(mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "mine"))
    fetch_entries(["1ABC"], tmp_path / "out", pdb_url=mirror[0])
    assert (tmp_path / "mine" / "1abc.cif.gz").is_file()
