"""The figure of the two stages: curves along t and, below them, x_t and the denoiser of a few queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.arrays import Tensor
from ...data.values import is_picture
from ..plot_style import (
    BLUE,
    BODY,
    GREEN,
    GREY,
    INK,
    NAVIGATION,
    ORANGE,
    REFINEMENT,
    SMALL,
    place_of,
    require_matplotlib,
    save_figure,
    thin,
)
from .frames import Frames, picture_frames, plane_frames
from .report import StageReport
from .strip import Strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# inches
WIDTH, LEFT, RIGHT = 7.8, 1.42, 1.1
CURVES_WIDTH = WIDTH - LEFT - RIGHT
TOP, BOTTOM, GAP, FAN = 1.5, 0.3, 0.1, 0.5
PANELS = (1.45, 1.45, 1.0, 1.0)

QUERIES_SHOWN = 3
# the name of a regime is left out where the regime is narrower than this part of the axis
WORD_ROOM = 0.15
LINEAR_TICKS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TICKS = (0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997, 0.999)


def stages_figure(report: StageReport, path: str | Path, *, linear: bool = False) -> None:
    """Draw `report` to `path`, in the format its suffix names (.png, .pdf, .svg), whole or not at all.

    report: of the analysis. path: the file, in a folder that exists. linear: t on a linear axis.

    Above, along logit(t): the measured and predicted transition, mean top-1 weight and entropy, ESS, V(t). Below: x_t
    and the denoiser of three queries, as pictures, or in the plane of the first two principal coordinates.
    Raises MissingDependencyError where matplotlib is not installed, OSError where `path` cannot be written.
    """
    save_figure(poster(report, linear=linear), path)


def poster(report: StageReport, *, linear: bool = False) -> Figure:
    """Return the figure that :func:`stages_figure` writes; without pictures where the report has no strip."""
    require_matplotlib()
    return _Sheet(report, linear=linear).draw()


class _Sheet:
    """One figure, laid out in inches from its top left corner."""

    def __init__(self, report: StageReport, *, linear: bool) -> None:
        from matplotlib.figure import Figure

        self.report, self.linear = report, linear
        self.strip_top = TOP + sum(PANELS) + GAP * (len(PANELS) - 1) + FAN
        self.height = self.strip_top + (self._lay_strip(report.strip) if report.strip else 0.0) + BOTTOM
        self.figure: Figure = Figure(figsize=(WIDTH, self.height), facecolor="white")
        place = [self._place(point.t) for point in report.points]
        self.place, margin = place, 0.02 * (place[-1] - place[0]) or 0.5
        self.limits = (place[0] - margin, place[-1] + margin)

    def _lay_strip(self, strip: Strip) -> float:
        """Prepare the pictures below the curves and return their height."""
        self.pictures = is_picture(tuple(strip.samples.shape[1:]))
        self.frames: Frames = picture_frames(strip) if self.pictures else plane_frames(strip)
        self.columns = len(strip.times)
        self.side = CURVES_WIDTH / max(self.columns, 6)
        chosen = {round(i * (len(strip.sources) - 1) / max(QUERIES_SHOWN - 1, 1)) for i in range(QUERIES_SHOWN)}
        self.queries = sorted(chosen)
        return len(self.queries) * (2 * self.side + GAP) if self.pictures else self.side + GAP

    def _place(self, t: float) -> float:
        return t if self.linear else place_of(t)

    def draw(self) -> Figure:
        """Return the finished figure."""
        self._title()
        panels, top = [], TOP
        for height in PANELS:
            panels.append(self._panel(top, height))
            top += height + GAP
        self._transition(panels[0])
        self._weights(panels[1])
        self._sizes(panels[2])
        self._variance(panels[3])
        self._regimes(panels)
        if self.report.strip is not None:
            self._fan(top - GAP, self.report.strip)
            draw = self._pictures if self.pictures else self._planes
            draw()
        return self.figure

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        rectangle = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(rectangle)

    def _text(self, left: float, top: float, text: str, **style: Any) -> None:
        style = {"size": SMALL, "color": INK, "va": "center", **style}
        self.figure.text(left / WIDTH, 1 - top / self.height, text, **style)

    def _title(self) -> None:
        """Write the title and the facts about the data."""
        data = self.report.data
        shape = f" ({' × '.join(map(str, data['sample_shape']))})" if len(data["sample_shape"]) > 1 else ""
        path, kind = self.report.path.removesuffix("()"), "held-out" if self.report.held_out else "training"
        facts = f"N = {data['samples']:,},  D = {data['dim']:,}{shape},  {path},  {self.report.queries} {kind} queries"
        self._text(LEFT, 0.24, f"Navigation and refinement: {data['name']}", size=13, weight="bold")
        self._text(LEFT, 0.48, facts, size=BODY, color=GREY)
        self._text(LEFT, 0.65, data["values"], size=BODY, color=GREY)
        self._text(LEFT, 0.82, self.report.scope, size=BODY, color=GREY)
        if data["note"]:
            self._text(LEFT, 0.99, f"note: {data['note'].split(' (')[0]}", size=SMALL, color=GREY)

    def _panel(self, top: float, height: float) -> Axes:
        """Return axes whose x is time."""
        axes = self._axes(LEFT, top, CURVES_WIDTH, height)
        first = top == TOP
        axes.set_xlim(*self.limits)
        ticks = LINEAR_TICKS if self.linear else TICKS
        inside = [t for t in ticks if self._visible([t])]
        axes.set_xticks([self._place(t) for t in inside], [f"{t:g}" for t in inside])
        axes.tick_params(axis="x", top=first, labeltop=first, bottom=False, labelbottom=False)
        axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5, width=0.6)
        thin(axes)
        if first:
            axes.set_xlabel(
                f"t   (0 noise, 1 data{'' if self.linear else '; logit scale'})", size=BODY, color=INK, labelpad=4
            )
            axes.xaxis.set_label_position("top")
        return axes

    def _transition(self, axes: Axes) -> None:
        """Draw the times of the transition, measured and predicted, with their errors."""
        measured, predicted = self.report.measured, self.report.predicted
        errors = self.report.errors
        rows = (
            ("top-1 weight = .5", measured.top_weight_50, errors.top_weight_50, BLUE),
            ("top-1 weight = .9", measured.top_weight_90, errors.top_weight_90, BLUE),
            ("top-1 weight = .99", measured.top_weight_99, errors.top_weight_99, BLUE),
            ("median ESS = 2", measured.ess_2, errors.ess_2, GREEN),
            ("median entropy = ln 2", measured.entropy_2, errors.entropy_2, ORANGE),
            ("cos(u, v) > .9, half", measured.aligned_50, errors.aligned_50, INK),
            ("predicted, anisotropic", predicted.anisotropic, None, INK),
            ("predicted, isotropic", predicted.isotropic, None, GREY),
        )
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.tick_params(axis="y", length=0)
        self._side(axes, 0.5, "bars: ± 2\nstandard errors", GREY)
        for row, (name, t, error, colour) in enumerate(rows):
            axes.get_yticklabels()[row].set_color(colour)
            if t is not None and self._visible([t]):
                fill, shape = ("white", "D") if name.startswith("predicted") else (colour, "o")
                axes.plot(self._place(t), row, shape, ms=4, color=colour, mfc=fill)
                self._whisker(axes, row, t, error, colour)
                self._note_time(axes, row, t, error).set(size=SMALL, color=colour)

    def _whisker(self, axes: Axes, row: int, t: float, error: float | None, colour: str) -> None:
        if error is not None:
            ends = [self._place(min(max(t + sign * 2.0 * error, 1e-4), 1.0)) for sign in (-1, 1)]
            axes.plot(ends, [row, row], color=colour, lw=0.8, zorder=1)

    def _note_time(self, axes: Axes, row: int, t: float, error: float | None) -> Annotation:
        """Write a time beside its mark."""
        x, right = self._place(t), self._place(min(t + 2.0 * (error or 0.0), 1.0))
        words = f"{t:.3f}" + ("" if error is None else f" ± {error:.3f}")
        # to the left of the mark where the right edge is near
        if self._part(right) < 0.8:
            return axes.annotate(words, (right, row), (6, 0), textcoords="offset points", ha="left", va="center")
        left = self._place(max(t - 2.0 * (error or 0.0), 1e-4)) if error else x
        return axes.annotate(words, (left, row), (-6, 0), textcoords="offset points", ha="right", va="center")

    def _weights(self, axes: Axes) -> None:
        """Draw the weight of the heaviest sample, the entropy, and how often the own sample is the heaviest."""
        points, entropy = self.report.points, max(self.report.predicted.entropy, 1e-300)
        top = [point.top_weight for point in points]
        self._band(axes, "top_weight_quantiles", (1, 3), color=BLUE, alpha=0.15)
        axes.plot(self.place, [point.entropy / entropy for point in points], color=ORANGE, lw=1.6)
        errors = [2.0 * (point.top_weight_error or 0.0) for point in points]
        axes.errorbar(self.place, top, errors, color=BLUE, lw=1.8, elinewidth=0.8)
        if not self.report.held_out:
            axes.plot(
                self.place, [point.own_share or 0.0 for point in points], "o", ms=3, mfc="white", mec=INK, mew=0.7
            )
        axes.set_ylim(-0.05, 1.3)
        axes.set_yticks((0, 0.5, 1), ("0", ".5", "1"))
        self._weight_labels(axes, entropy_above=top[-1] <= points[-1].entropy / entropy)
        self._name(axes, "posterior\nweight")

    def _weight_labels(self, axes: Axes, *, entropy_above: bool) -> None:
        """Name the curves of the weights beside them."""
        own = "" if self.report.held_out else "○ own sample is\n    the heaviest"
        labels = [("mean top-1 weight\n± 2 errors, and\nmiddle 50 %", BLUE), (own, INK)]
        last = ("median entropy\n/ ln N", ORANGE)
        # in the order in which the curves end
        labels = [last, *labels] if entropy_above else [*labels, last]
        for height, (text, colour) in zip((0.85, 0.55, 0.13), labels, strict=True):
            self._side(axes, height, text, colour)

    def _sizes(self, axes: Axes) -> None:
        """Draw the effective sample size."""
        axes.set_yscale("log")
        self._band(axes, "ess_quantiles", (0, 4), color=GREEN, alpha=0.12)
        self._band(axes, "ess_quantiles", (1, 3), color=GREEN, alpha=0.2)
        median = [point.ess_quantiles[2] for point in self.report.points]
        axes.plot(self.place, median, color=GREEN, lw=1.8)
        axes.minorticks_off()
        axes.set_ylim(0.7, 1.6 * self.report.population)
        self._side(axes, 0.16, "median ESS,\nmiddle 50 %\nand 90 %", GREEN)
        self._name(axes, "ESS")

    def _variance(self, axes: Axes) -> None:
        """Draw the variance of the conditional velocity."""
        values = [point.velocity_variance for point in self.report.points]
        peak = max(*values, 1e-300)
        floor = max(1e-4 * peak, 0.3 * min(values))
        axes.set_yscale("log")
        errors = [2.0 * (point.velocity_variance_error or 0.0) for point in self.report.points]
        shown = [max(value, 1e-9 * peak) for value in values]
        axes.errorbar(self.place, shown, errors, color=INK, lw=1.6, elinewidth=0.8)
        axes.minorticks_off()
        axes.set_ylim(floor, 3 * peak)
        self._side(axes, 0.14, "variance of the\nvelocity target,\nE|u − v|² / D", INK)
        self._name(axes, "V(t)")

    def _regimes(self, panels: Sequence[Axes]) -> None:
        """Colour navigation and refinement, and draw the transition between them."""
        measured = self.report.measured
        if measured.ess_2 is None:
            return
        border = self._place(measured.ess_2)
        for number, axes in enumerate(panels):
            axes.axvspan(self.limits[0], border, color=NAVIGATION, lw=0, zorder=-2)
            axes.axvspan(border, self.limits[1], color=REFINEMENT, lw=0, zorder=-2)
            if number:
                axes.axvline(border, color=GREEN, lw=1.0, zorder=-1)
                for x in self._visible([self.report.predicted.anisotropic]):
                    axes.axvline(x, color=INK, lw=0.8, ls=(0, (3, 3)), zorder=-1)
        self._regime_names(panels[1], border)

    def _regime_names(self, axes: Axes, border: float) -> None:
        """Name the two regimes where there is room."""
        names = (("navigation", "right", -6, NAVIGATION), ("refinement", "left", 6, REFINEMENT))
        for (word, ha, shift, ground), room in zip(names, (self._part(border), 1 - self._part(border)), strict=True):
            if room > WORD_ROOM:
                style: dict[str, Any] = {"textcoords": "offset points", "ha": ha, "va": "center"}
                note = axes.annotate(word, (border, 1.17), (shift, 0), **style)
                note.set(size=BODY, style="italic", color=GREY)
                note.set_bbox({"facecolor": ground, "edgecolor": "none", "pad": 1.5})

    def _fan(self, top: float, strip: Strip) -> None:
        """Draw a line from each time of the strip, on the axis, down to its column."""
        from matplotlib.lines import Line2D

        for column, t in enumerate(strip.times):
            x0 = LEFT + CURVES_WIDTH * self._part(self._place(t))
            x1 = LEFT + (column + 0.5) * self.side
            xs, ys = (x0, x0, x1), (top, top + 0.05, self.strip_top - 0.2)
            across, down = [x / WIDTH for x in xs], [1 - y / self.height for y in ys]
            self.figure.add_artist(Line2D(across, down, color="#AAAAAA", lw=0.6))
            self._text(x1, self.strip_top - 0.1, f"{t:.3g}", ha="center")

    def _pictures(self) -> None:
        """Draw queries and their denoisers along t as pictures."""
        for row, query in enumerate(self.queries):
            top = self.strip_top + row * (2 * self.side + GAP)
            for half, (name, part) in enumerate((("$x_t$", self.frames.noisy), ("denoiser", self.frames.denoised))):
                for column in range(self.columns):
                    self._image(LEFT + column * self.side, top + half * self.side, part[query, column])
                self._text(LEFT - 0.1, top + (half + 0.5) * self.side, name, ha="right", size=BODY)
            left = LEFT + self.columns * self.side + 0.14
            self._image(left, top + self.side, self.frames.samples[query])
            if row == 0:
                self._text(left + self.side / 2, top + self.side - 0.1, "sample", ha="center")
        self._text(LEFT, self.height - 0.2, "queries that narrow early above, late below", color=GREY)

    def _image(self, left: float, top: float, image: Tensor) -> None:
        axes = self._axes(left + 0.015, top + 0.015, self.side - 0.03, self.side - 0.03)
        axes.imshow(image.numpy(), interpolation="nearest")
        axes.set_axis_off()

    def _planes(self) -> None:
        """Draw queries and their denoisers along t in a plane."""
        reach = 1.25 * float(self.frames.context.abs().max()) or 1.0
        for column in range(self.columns):
            axes = self._axes(LEFT + column * self.side + 0.02, self.strip_top, self.side - 0.04, self.side - 0.04)
            self._scatter(axes, column)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=())
        self._text(LEFT - 0.1, self.strip_top + self.side / 2, "first two principal\ncoordinates", ha="right")
        words = (("× $x_t$", ORANGE), ("● denoiser", BLUE), ("○ sample", INK), ("· data", GREY))
        for line, (word, colour) in enumerate(words):
            self._text(LEFT + self.columns * self.side + 0.06, self.strip_top + 0.1 + 0.14 * line, word, color=colour)

    def _scatter(self, axes: Axes, column: int) -> None:
        """Draw one time of the plane."""
        frames = self.frames
        styles: Sequence[tuple[Tensor, dict[str, Any]]] = (
            (frames.context, {"s": 1.5, "color": "#BBBBBB", "lw": 0}),
            (frames.samples, {"s": 14, "facecolor": "none", "edgecolor": INK, "lw": 0.6}),
            (frames.noisy[:, column], {"s": 9, "marker": "x", "color": ORANGE, "lw": 0.7}),
            (frames.denoised[:, column], {"s": 7, "color": BLUE, "lw": 0}),
        )
        for points, style in styles:
            axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), **style)
        thin(axes)

    def _band(self, axes: Axes, name: str, ends: tuple[int, int], **style: Any) -> None:
        low, high = ([getattr(point, name)[end] for point in self.report.points] for end in ends)
        axes.fill_between(self.place, low, high, **style, lw=0)

    def _visible(self, times: Iterable[float | None]) -> list[float]:
        places = [self._place(t) for t in times if t is not None]
        return [place for place in places if self.limits[0] <= place <= self.limits[1]]

    def _part(self, place: float) -> float:
        return (place - self.limits[0]) / (self.limits[1] - self.limits[0])

    def _side(self, axes: Axes, height: float, text: str, colour: str) -> None:
        axes.text(1.015, height, text, transform=axes.transAxes, color=colour, size=SMALL, va="center", linespacing=1.1)

    def _name(self, axes: Axes, name: str) -> None:
        axes.set_ylabel(name, rotation=0, ha="right", va="center", size=BODY, color=INK, labelpad=8)
