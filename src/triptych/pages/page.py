"""What the pages share: the frame of a page, and the panels that show a particle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.errors import counted
from triptych.io.manifest import installed_version
from triptych.pages import figures
from triptych.volume import Volume

MAP_POINTS = 20_000
"""Particles on a map of embeddings at most, drawn at random where there are more."""
EYE_VOXELS = 4.5
"""Resolution of the low-pass filter for the eye, in voxels, but at least `EYE_RESOLUTION` Å."""
EYE_RESOLUTION = 45.0


def render_page(template: str, **values: Any) -> str:
    """An HTML page from a template of the package. Everything that comes from files is escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    loader = PackageLoader("triptych", "data")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = format_number
    environment.filters["counted"] = counted
    environment.filters["breakable"] = lambda text: Markup("_<wbr>").join(escape(part) for part in str(text).split("_"))
    return environment.get_template(template).render(version=installed_version() or "", **values)


def format_number(value: Any, form: str = ".3f") -> str:
    """A number for the page; a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else format(value, form)


@dataclass(frozen=True)
class Panel:
    """One column of a gallery card: a title and SVG of the central xy and xz slices."""

    title: str
    xy: str
    xz: str


def eye_resolution(voxel_size: float) -> float:
    """Resolution in Å of the low-pass filter for the eye."""
    return max(EYE_RESOLUTION, EYE_VOXELS * voxel_size)


def density_limits(*densities: Volume | NDArray[np.float32] | None) -> tuple[float, float]:
    """Grey scale common to recovered and true density: from 0 (solvent) to 1 (protein), or to the brightest voxels if above."""
    peaks = [float(np.percentile(d.data if isinstance(d, Volume) else d, 99.9)) for d in densities if d is not None]
    return 0.0, max(1.0, *peaks) if peaks else 1.0


def draw_panel(
    title: str,
    data: NDArray[Any],
    limits: tuple[float, float] | None = None,
    outlines: Sequence[tuple[str, NDArray[Any]]] = (),
    scale: float | None = None,
) -> Panel:
    z, y = data.shape[0] // 2, data.shape[1] // 2
    limits = limits or figures.grey_limits([data[z], data[:, y]])
    length = None if scale is None else scale_bar(scale * data.shape[2])
    bar = None if length is None or scale is None else length / scale
    return Panel(
        title if length is None else f"{title} (bar {length:g} Å)",
        figures.draw_slice(data[z], limits, [(name, mask[z]) for name, mask in outlines], bar),
        figures.draw_slice(data[:, y], limits, [(name, mask[:, y]) for name, mask in outlines]),
    )


def scale_bar(width: float) -> float:
    """Length in Å of a scale bar for a picture of that width: 1, 2 or 5 times a power of ten, at most 0.3 of it."""
    power = 10.0 ** np.floor(np.log10(0.3 * width))
    return float(max(step * power for step in (1, 2, 5) if step * power <= 0.3 * width))
