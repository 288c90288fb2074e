"""Atoms -> electrostatic potential on a grid, in vacuum and less that of the displaced ice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from triptych.fourier import frequency_grid

if TYPE_CHECKING:
    import gemmi

VOLTS = 47.878
"""V Å^2 per Å of electron scattering factor: h^2 / (2 pi m e), Peng 1999, Micron 30:625."""
ICE_POTENTIAL = 4.53
"""V, mean inner potential of vitreous ice, isolated atoms at 0.93 g/cm^3 (Vulović et al. 2013, J. Struct. Biol. 183:19)."""
PROTEIN_CONTRAST = 3.28
"""V, protein minus ice by the same sums (averagine in its Fraser volume): the unit of `Structure.density`."""
ATOM_VOLUMES = {"H": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "P": 5.73, "S": 19.86}
"""Å^3 of solvent that an atom displaces (Fraser, MacRae & Suzuki 1978, J. Appl. Cryst. 11:693)."""
OTHER_ATOM_VOLUME = 10.0
AVERAGINE = {"C": 4.9384, "H": 7.7583, "N": 1.3577, "O": 1.4773, "S": 0.0417}
"""The mean amino-acid residue (Senko, Beu & McLafferty 1995, J. Am. Soc. Mass Spectrom. 6:229)."""
MEAN_NUCLEOTIDE = {"C": 9.5, "H": 11.75, "N": 3.75, "O": 7.0, "P": 1.0}
"""The mean of the A, C, G and U residues of RNA."""
WATER_WEIGHT = 18.015
NYQUIST_VALUE = 0.15
"""What the Gaussian low-pass filter leaves at the Nyquist frequency: undershoot stays below 1 %; a cosine edge rings."""

Counts = dict[str, NDArray[np.float64]]


def count_atoms(flat: gemmi.FlatStructure) -> tuple[NDArray[np.float64], Counts]:
    """Positions, and how many atoms of each element sit there.

    Hydrogens in the file are dropped and a residue's hydrogens, known from its name, are shared out over its heavy atoms, so
    that files with and without hydrogens agree. A residue of which only the CA or P atom is given counts there as a whole one.

    Parameters
    ----------
    flat : atoms, of which at least one must be heavier than hydrogen

    Returns
    -------
    positions : float array (n, 3), x, y, z in Å
    counts : for each element a float array (n,)
    """
    import gemmi

    symbols = np.asarray(flat.element_names)
    symbols = np.where(symbols == b"X", b"C", symbols)  # of no known element
    heavy = ~np.isin(symbols, (b"H", b"D"))
    labels = np.concatenate([flat.chain_ids, flat.residue_names, np.asarray(flat.icodes)[:, None]], axis=1)
    starts = np.any(labels[1:] != labels[:-1], axis=1) | (np.diff(flat.resnums) != 0)
    residue = np.concatenate([[0], np.cumsum(starts)])[heavy]
    positions, symbols = np.asarray(flat.pos)[heavy], symbols[heavy]
    zeros = np.zeros(len(symbols))
    counts = {symbol.decode(): (symbols == symbol).astype(np.float64) for symbol in np.unique(symbols)} | {"H": zeros.copy()}
    names = _strings(np.asarray(flat.residue_names)[heavy])
    atoms_in = np.bincount(residue)[residue]
    mass_in = np.bincount(residue, np.asarray(flat.element_weights)[heavy])[residue]
    lone = (atoms_in == 1) & np.isin(_strings(np.asarray(flat.atom_names)[heavy]), (b"CA", b"P"))
    for residue_name in np.unique(names):
        here = names == residue_name
        info = gemmi.find_tabulated_residue(residue_name.decode())
        polymer = info.is_amino_acid() or info.is_nucleic_acid()
        if polymer and (trace := here & lone).any():
            mean, weight = (AVERAGINE, 111.1) if info.is_amino_acid() else (MEAN_NUCLEOTIDE, 321.5)
            for symbol, number in mean.items():
                column = counts.setdefault(symbol, zeros.copy())
                column[trace] = number * ((info.weight - WATER_WEIGHT) / weight if info.weight > 0 else 1.0)
            here = here & ~lone
        hydrogens, weight = info.hydrogen_count, info.weight - 1.008 * info.hydrogen_count
        if polymer:  # less the water lost in the chain
            hydrogens, weight = hydrogens - 2, weight - 15.999
        if weight > 0:
            counts["H"][here] += hydrogens * np.minimum(mass_in[here] / weight, 1) / atoms_in[here]
        else:  # not tabulated: one hydrogen per carbon, near enough for sugars and ligands
            counts["H"][here] += counts.get("C", zeros)[here]
    return positions, {symbol: column for symbol, column in counts.items() if column.any()}


def _strings(characters: NDArray[np.int8]) -> NDArray[np.bytes_]:
    """(n, 8) zero-padded characters -> (n,) strings."""
    return np.ascontiguousarray(characters).view("S8")[:, 0]


def excess_potential(positions: NDArray[np.float64], counts: Counts, size: int, voxel_size: float) -> NDArray[np.float32]:
    """`potential` less that of the displaced ice, in units of `PROTEIN_CONTRAST`; arguments as in `potential`."""
    displaced = sum((ATOM_VOLUMES.get(symbol, OTHER_ATOM_VOLUME) * column for symbol, column in counts.items()), np.zeros(len(positions)))
    volts = potential(positions, counts, size, voxel_size) - ICE_POTENTIAL * displaced_solvent(positions, displaced, size, voxel_size)
    return np.asarray(volts / PROTEIN_CONTRAST, dtype=np.float32)


def potential(positions: NDArray[np.float64], counts: Mapping[str, NDArray[np.float64]], size: int, voxel_size: float) -> NDArray[np.float64]:
    """Electrostatic potential of atoms in vacuum, band-limited to the grid.

    Each element is splat on a fine grid and multiplied in Fourier space by its electron scattering factor, five Gaussians as in
    International Tables C, table 4.3.2.2 (Peng, Ren, Dudarev & Whelan 1996, Acta Cryst. A52:257), tabulated in gemmi.

    Parameters
    ----------
    positions : (n, 3), x, y, z in Å from the centre of the grid, index ``size // 2``
    counts : for each element symbol (n,) numbers of atoms
    size : voxels along each side, even
    voxel_size : Å

    Returns
    -------
    (size, size, size) array in volts. Its integral is `VOLTS` x the sum of f_e(0).
    """
    import gemmi

    squares = frequency_grid((size,) * 3, voxel_size) ** 2
    total = np.zeros(squares.shape, np.complex128)
    for symbol, column in counts.items():
        curve = gemmi.Element(symbol).c4322
        factor = np.zeros(squares.shape)
        for a, b in zip(curve.a, curve.b, strict=True):
            factor += a * np.exp(-b * squares / 4)
        total += factor * _splat(positions, column, size, voxel_size)
    return VOLTS * _to_real_space(total, voxel_size)


def displaced_solvent(positions: NDArray[np.float64], volumes: NDArray[np.float64], size: int, voxel_size: float) -> NDArray[np.float64]:
    """Share of each voxel from which atoms displace the solvent; arguments as in `potential`, volumes (n,) in Å^3.

    Each atom is a Gaussian that holds its volume and, as in Fraser, MacRae & Suzuki 1978, has that height: exp(-pi V^(2/3) s^2)
    in Fourier space, here with the mean volume V.
    """
    width = math.pi * float(volumes.mean()) ** (2 / 3)
    spectrum = np.exp(-width * frequency_grid((size,) * 3, voxel_size) ** 2) * _splat(positions, volumes, size, voxel_size)
    return _to_real_space(spectrum, voxel_size)


def _splat(positions: NDArray[np.float64], weights: NDArray[np.float64], size: int, voxel_size: float) -> NDArray[np.complex128]:
    """Fourier transform (rfftn layout, (size, size, size // 2 + 1)) of weighted points.

    Splat on a grid several times finer, which keeps aliases out of the band that is then cropped.
    """
    factor = max(3, math.ceil(voxel_size / 2.5))
    fine = size * factor
    used = weights != 0
    scaled = positions[used] * (factor / voxel_size) + fine // 2
    corner = np.floor(scaled).astype(np.int64)
    share = scaled - corner
    grid = np.zeros(fine**3)
    for step in np.ndindex(2, 2, 2):
        part = np.prod(np.where(np.array(step), share, 1 - share), axis=1)
        x, y, z = (corner + step).T % fine
        grid += np.bincount((z * fine + y) * fine + x, weights[used] * part, minlength=fine**3)
    spectrum = fft.rfft(grid.reshape(fine, fine, fine).astype(np.float32), axis=2)[:, :, : size // 2 + 1]
    for axis in (1, 0):
        spectrum = _crop_axis(fft.fft(spectrum, axis=axis), axis, size)
    # the trilinear kernel's own transform is sinc^2 along each axis
    full, half = (1 / np.sinc(f / factor) ** 2 for f in (fft.fftfreq(size), fft.rfftfreq(size)))
    return np.asarray(spectrum * full[:, None, None] * full[:, None] * half, np.complex128)


def _crop_axis(spectrum: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    """The lowest frequencies of an axis; at Nyquist the mean of both signs, so that no direction is favoured."""
    length, half = spectrum.shape[axis], size // 2
    result: NDArray[Any] = spectrum.take(np.r_[0 : half + 1, length - half + 1 : length], axis=axis)
    negative = spectrum.take([length - half], axis=axis)
    nyquist = (slice(None),) * axis + (slice(half, half + 1),)
    result[nyquist] = (result[nyquist] + negative) / 2
    return result


def _to_real_space(spectrum: NDArray[np.complex128], voxel_size: float) -> NDArray[np.float64]:
    size = spectrum.shape[0]
    limited = spectrum * soft_band_limit(frequency_grid((size,) * 3, voxel_size), voxel_size)
    return np.asarray(fft.irfftn(limited, s=(size,) * 3)) / voxel_size**3


def soft_band_limit(frequencies: NDArray[np.floating], voxel_size: float) -> NDArray[np.float64]:
    """A Gaussian that falls to `NYQUIST_VALUE` at the Nyquist frequency of the voxel size; frequencies in 1/Å."""
    return np.asarray(NYQUIST_VALUE ** ((2 * voxel_size * frequencies) ** 2), dtype=np.float64)
