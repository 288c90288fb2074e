"""Pictures for the report: arrays in, SVG text out.

The SVG is meant to stand inside an HTML page: its colours are the page's CSS variables (``--ink``, ``--blue`` ...), so
that one figure serves a light and a dark page. Colours are those of Okabe and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triptych.config import NONE_CLASS
from triptych.judging.metrics import FloatArray, IntArray, ReliabilityCurve, Trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that no figure uses otherwise; `to_svg` puts the page's CSS variables in their place.
INK, MUTED, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
BLUE, RED, GREEN, ORANGE = "#0d0e0f", "#101112", "#131415", "#161718"
PAGE_COLOURS = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", BLUE: "blue", RED: "red", GREEN: "green", ORANGE: "orange"}

CLASS_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P")

RESOLUTIONS = (200, 100, 60, 40, 30, 25, 20, 15, 12, 10, 8, 6, 5, 4)
"""Å; ticks of the shell correlation."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes may hold a $
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


# ------------------------------------------------------------------------------------------------------------- canvas


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context(STYLE):  # type: ignore[arg-type, unused-ignore]
        yield


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches; without pyplot, so that nothing global remembers it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element that takes its colours and its font from the page around it."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}):  # ids of their own for the figures of one page
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z0-9]+_\d+"', "", text)  # figure_1, axes_1 ...: the same in every figure, and never referred to
    text = re.sub(r"""font-family: [^;"]*""", "font-family: inherit", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _unit_axis(axes: Axes, low: float = 0.0) -> None:
    axes.set_xlim(low, 1.0)
    axes.margins(y=0.06)


def _count_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("particles")


# -------------------------------------------------------------------------------------------------------------- plots


def draw_probabilities(probability: FloatArray, correct: NDArray[np.bool_] | None, name: str = "probability of the predicted class") -> str:
    """Histogram of a probability, split into right and wrong where that is known."""
    with _style():
        figure = _figure(5.2, 2.9)
        axes = figure.subplots()
        edges = np.linspace(0, 1, 26).tolist()
        if correct is None:
            axes.hist(probability, edges, color=BLUE, rwidth=0.92)
        else:
            parts, labels = [probability[correct], probability[~correct]], ["right class", "wrong class"]
            axes.hist(parts, edges, stacked=True, color=[BLUE, RED], rwidth=0.92, label=labels)
            axes.legend(loc="upper left")
        _unit_axis(axes)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(name)
        _count_axis(axes)
        return to_svg(figure, f"Histogram of the {name}")


def draw_reliability(curve: ReliabilityCurve) -> str:
    """Observed accuracy against stated probability; the area of a dot grows with the particles behind it."""
    from triptych.judging.metrics import wilson_interval

    with _style():
        figure = _figure(5.2, 3.9)
        axes = figure.subplots()
        filled = curve.particles > 0
        x, y, n = curve.probability[filled], curve.accuracy[filled], curve.particles[filled]
        low, high = wilson_interval(np.round(y * n), n)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3), label="ideal")
        axes.vlines(x, low, high, color=BLUE, linewidth=1.2, alpha=0.6, label="95 % interval")
        axes.plot(x, y, color=BLUE, linewidth=1.6)
        axes.scatter(x, y, s=18 + 130 * n / n.max(), color=BLUE, linewidth=0, label="observed", zorder=3)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("stated probability")
        axes.set_ylabel("share that is right")
        axes.legend(loc="upper left", markerscale=0.6)
        return to_svg(figure, "Reliability curve")


def draw_expectation(expected: FloatArray, found: FloatArray, names: tuple[str, str]) -> str:
    """Found against expected figures of particles; both axes are cut where all but a few of the lowest lie above."""
    with _style():
        figure = _figure(5.2, 3.9)
        axes = figure.subplots()
        low = float(np.floor(10 * min(np.quantile(expected, 0.005), np.quantile(found, 0.005))) / 10)
        axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, dashes=(4, 3), label="ideal")
        axes.scatter(expected.clip(low), found.clip(low), s=9, color=BLUE, alpha=0.45, linewidth=0)
        axes.set_xlim(low, 1)
        axes.set_ylim(low, 1)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.legend(loc="upper left")
        return to_svg(figure, f"{names[1]} against {names[0]}")


def draw_distributions(panels: Sequence[tuple[str, FloatArray]]) -> str:
    """A histogram per panel, with its mean marked."""
    with _style():
        figure = _figure(5.2 * len(panels), 2.8)
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            values = values[np.isfinite(values)]
            low = min(0.0, np.floor(values.min() * 10) / 10) if values.size else 0.0
            axes.hist(values, np.linspace(low, 1, 31).tolist(), color=BLUE, rwidth=0.92)
            if values.size:
                axes.axvline(values.mean(), color=RED, linewidth=1.4, label=f"mean {values.mean():.3f}")
                axes.legend(loc="upper left")
            _unit_axis(axes, low)
            axes.grid(visible=False, axis="x")
            axes.set_title(title)
            _count_axis(axes)
        return to_svg(figure, "Distributions of " + " and ".join(title for title, _ in panels))


def draw_by_class(class_names: Sequence[str], label: IntArray, panels: Sequence[tuple[str, FloatArray]]) -> str:
    """Box plots of the values of each class, classes from top to bottom."""
    with _style():
        figure = _figure(4.6 * len(panels) + 1.2, 0.9 + 0.2 * len(class_names))
        for axes, (title, values) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            groups = [values[(label == k) & np.isfinite(values)] for k in range(len(class_names))]
            axes.boxplot(
                groups, orientation="horizontal", widths=0.62, patch_artist=True, whis=(5, 95),
                boxprops={"facecolor": BLUE, "edgecolor": BLUE, "alpha": 0.45, "linewidth": 0}, medianprops={"color": INK, "linewidth": 1.4},
                whiskerprops={"color": BLUE, "linewidth": 1}, capprops={"linewidth": 0},
                flierprops={"marker": "o", "markersize": 1.8, "markerfacecolor": RED, "markeredgewidth": 0},
            )  # fmt: skip
            axes.set_yticks(range(1, len(class_names) + 1), labels=class_names)
            axes.set_ylim(len(class_names) + 0.6, 0.4)
            everything = np.concatenate(groups)
            _unit_axis(axes, min(0.0, np.floor(everything.min() * 10) / 10) if everything.size else 0.0)
            axes.grid(visible=False, axis="y")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_title(title)
        return to_svg(figure, "By class: " + " and ".join(title for title, _ in panels))


def draw_trends(panels: Sequence[tuple[str, Trend]], label: str) -> str:
    """Mean against a positive position (such as the SNR), one panel per quantity."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with _style():
        figure = _figure(3.5 * len(panels), 2.9)
        for axes, (title, curve) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.fill_between(curve.position, np.clip(curve.low, -1, 1), np.clip(curve.high, -1, 1), color=BLUE, alpha=0.18, linewidth=0)
            axes.plot(curve.position, curve.mean, color=BLUE, marker="o", markersize=4.5, linewidth=1.6)
            axes.set_xscale("log")
            positions = curve.position[np.isfinite(curve.position)]
            axes.set_xticks(positions[:: max(1, len(positions) // 4)])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.minorticks_off()
            axes.set_ylim(min(0.0, float(np.nanmin(curve.low, initial=0.0))), 1.02)
            axes.set_title(title)
            axes.set_xlabel(label)
        return to_svg(figure, "Trends against " + label)


def draw_shell_correlation(frequency: FloatArray, correlation: FloatArray) -> str:
    """Mean Fourier shell correlation against spatial frequency (1/Å)."""
    with _style():
        figure = _figure(5.2, 3.2)
        axes = figure.subplots()
        axes.axhline(0.5, color=MUTED, linewidth=1, dashes=(4, 3))
        axes.plot(frequency[1:], correlation[1:], color=BLUE, linewidth=1.8)  # the mean of the box is no detail
        _shell_axes(axes, frequency, float(np.nanmin(correlation[1:], initial=0.0)))
        axes.set_ylabel("mean shell correlation")
        return to_svg(figure, "Fourier shell correlation of recovered and true density")


def draw_half_map_correlation(frequency: FloatArray, curves: Mapping[str, FloatArray], threshold: float, title: str) -> str:
    """Fourier shell correlations of two half maps against spatial frequency (1/Å), the first curve in front of the others."""
    with _style():
        figure = _figure(4.6, 3.2)
        axes = figure.subplots()
        axes.axhline(threshold, color=MUTED, linewidth=1, dashes=(4, 3))
        for place, (name, curve) in enumerate(curves.items()):
            colour, width = (BLUE, ORANGE, MUTED)[place % 3], 1.8 if place == 0 else 1.1
            axes.plot(frequency[1:], curve[1:], label=name, color=colour, linewidth=width, zorder=3 - 0.1 * place)
        _shell_axes(axes, frequency, min(float(np.nanmin(curve[1:], initial=0.0)) for curve in curves.values()))
        axes.legend(loc="upper right")
        axes.set_ylabel("shell correlation of the halves")
        return to_svg(figure, title)


def _shell_axes(axes: Axes, frequency: FloatArray, lowest: float) -> None:
    """Frequencies named by their resolutions."""
    resolutions = [r for r in RESOLUTIONS if 1 / r <= frequency.max() * 1.001]
    axes.set_xticks([1 / r for r in resolutions], labels=[str(r) for r in resolutions])
    axes.set_xlim(0, frequency.max() * 1.01)
    axes.set_ylim(min(0.0, lowest), 1.02)
    axes.set_xlabel("resolution, Å")


def class_style(class_names: Sequence[str], index: int) -> tuple[str, str]:
    """Colour and marker of a class: 36 different pairs, then again from the first; "none" is grey."""
    if class_names[index] == NONE_CLASS:
        return MUTED, "x"
    return CLASS_COLOURS[index % len(CLASS_COLOURS)], CLASS_MARKERS[index // len(CLASS_COLOURS) % len(CLASS_MARKERS)]


def draw_embedding(points: FloatArray, label: IntArray | None, class_names: Sequence[str], shares: FloatArray) -> str:
    """Scatter of the first two principal components (n, 2), coloured by class."""
    with _style():
        figure = _figure(10.4, 5.2)
        axes = figure.subplots()
        size = float(np.clip(110 / np.sqrt(max(len(points), 1)), 1.6, 6.0))
        groups: list[tuple[Any, str, str, str]] = [(slice(None), BLUE, "o", "particles")]
        if label is not None:
            present = [k for k in range(len(class_names)) if (label == k).any()]
            groups = [(label == k, *class_style(class_names, k), class_names[k]) for k in present]
        for rows, colour, marker, name in groups:
            # A picture inside the SVG: ten thousand vector dots would make the page heavy. "none" goes by its own colour.
            axes.plot(
                points[rows, 0], points[rows, 1], linestyle="none", marker=marker, markersize=size, color="#8a8f98" if colour == MUTED else colour,
                markeredgewidth=0.6 if marker == "x" else 0, alpha=0.75, label=name, rasterized=colour != BLUE,
            )  # fmt: skip
        axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
        axes.set_ylabel(f"second ({shares[1]:.0%})")
        axes.set_xticklabels([])
        axes.set_yticklabels([])
        axes.tick_params(length=0)
        if label is not None:
            columns = 1 if len(groups) <= 20 else 2
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns, markerscale=5 / size, handletextpad=0.2, columnspacing=1.0)
        figure.dpi = 180
        return to_svg(figure, "Map of the embedding")


# ------------------------------------------------------------------------------------------------------------- slices


def png_data_uri(image: NDArray[np.uint8]) -> str:
    """An 8-bit grey image (rows, columns) as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def to_grey(image: NDArray[np.floating[Any]], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Values between the limits to 0 ... 255."""
    low, high = limits
    scaled = (np.asarray(image, np.float64) - low) / (high - low if high > low else 1.0)
    return np.asarray((np.clip(scaled, 0, 1) * 255).round(), np.uint8)


def outline(mask: NDArray[Any]) -> str:
    """SVG path around the parts of a 2-D mask (rows, columns), in pixels from the upper left corner."""
    from contourpy import contour_generator

    framed = np.pad(np.asarray(mask, np.float64), 1)
    lines: list[NDArray[np.float64]] = contour_generator(z=framed).lines(0.5)  # type: ignore[assignment]
    # Half a pixel from the corner to the centre of the first one, one less for the frame.
    return "".join("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for x, y in line) for line in lines)


def draw_slice(
    image: NDArray[np.floating[Any]],
    limits: tuple[float, float],
    outlines: Sequence[tuple[str, NDArray[Any]]] = (),
    scale_bar: float | None = None,
) -> str:
    """One slice (rows, columns), first row at the bottom, as an <svg> element.

    Parameters
    ----------
    image : grey values
    limits : values shown black and white
    outlines : (CSS class, mask) pairs, drawn in this order
    scale_bar : length in pixels
    """
    rows, columns = image.shape
    parts = [f'<svg class="slice" viewBox="0 0 {columns} {rows}">']
    parts.append(f'<image width="{columns}" height="{rows}" preserveAspectRatio="none" href="{png_data_uri(to_grey(image[::-1], limits))}"/>')
    parts += [f'<path class="{name}" d="{outline(mask[::-1])}"/>' for name, mask in outlines if np.any(mask)]
    if scale_bar is not None:
        parts.append(f'<path class="scale" d="M{0.05 * columns:.2f} {0.95 * rows:.2f}h{scale_bar:.2f}"/>')
    return "".join(parts) + "</svg>"


def grey_limits(slices: Sequence[NDArray[np.floating[Any]]]) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of the slices together, so that they are shown alike."""
    values = np.concatenate([np.ravel(s) for s in slices])
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)
