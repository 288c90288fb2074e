"""A density turned and shifted, on tensors, CPU or GPU; the centre is index n // 2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pose(template: Tensor, oversampling: int, rotation: Tensor, offset: Tensor, size: int, scale: float = 1.0) -> Tensor:
    """A template turned and shifted, sampled on a cube of `size` voxels.

    Parameters
    ----------
    template : (n, n, n), sampled `oversampling` times more finely than the result, centre at index n // 2
    rotation : (3, 3), template -> result, on (x, y, z)
    offset : (3,) position (x, y, z) of the centre in the result, in voxels from index size // 2
    scale : everything is this much larger
    """
    return pose_many(template[None], oversampling, rotation[None], offset[None], size, scale)[0, 0]


def pose_many(templates: Tensor, oversampling: int, rotations: Tensor, offsets: Tensor, size: int, scale: float = 1.0) -> Tensor:
    """As `pose`: templates (c, n, n, n), all in each of b poses (rotations (b, 3, 3), offsets (b, 3)) -> (b, c, size, size, size)."""
    n = templates.shape[-1]
    grid = torch.arange(size, dtype=torch.float32, device=templates.device) - size // 2
    x, y, z = (grid - offsets[:, i, None].float() for i in range(3))
    back = (rotations.mT.float() * (oversampling / scale))[:, None]
    # Coordinates in the template, (x, y, z) last, as grid_sample wants them: -1 and 1 are the centres of the outer voxels. What each
    # axis adds is scaled first: only the last sum is as large as the result.
    along_x, along_y, along_z = (axis[..., None] * back[..., i] * (2 / (n - 1)) for i, axis in enumerate((x, y, z)))
    plane = along_y[:, None] + along_z[:, :, None] + (n // 2 * (2 / (n - 1)) - 1)
    unit = plane[:, :, :, None] + along_x[:, None, None]
    volumes = templates.float().expand(len(rotations), -1, -1, -1, -1)
    return F.grid_sample(volumes, unit, mode="bilinear", padding_mode="zeros", align_corners=True)


def oversample(data: Tensor, factor: int) -> Tensor:
    """Fourier interpolation of an even-sided cube (n, n, n) onto a grid `factor` times finer; index n // 2 stays the centre."""
    n = data.shape[0]
    spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(data)))
    wide = torch.zeros((n * factor,) * 3, dtype=spectrum.dtype, device=data.device)
    low = n * factor // 2 - n // 2
    wide[low : low + n, low : low + n, low : low + n] = spectrum
    fine: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(wide))).real.float() * factor**3
    return fine
