"""Curves as inline SVG: drawn here, since a page without scripts and without the network can hold no plotting library.

A chart has no colours of its own; its classes (`line-0`, `grid`, ...) take them from the page, light or dark. A reader
that cannot see it is told title and range. Everything in it is a number, or escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 268
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 14, 52
MOST_POINTS = 400
LABEL_ROW = 23  # a line of text on a phone
LABEL_WIDTH = 90  # of a value's six letters there


@dataclass(frozen=True)
class Curve:
    """`dots` draws each point, for the few evaluations; a line of many points is thinned to means. `colour` is that of
    another curve of the same run (default: its own), which then is `dashed`."""

    name: str
    points: Points
    dots: bool = False
    colour: int | None = None
    dashed: bool = False


def chart(title: str, curves: Sequence[Curve], unit: str = "", *, from_zero: bool = False) -> Markup:
    """An SVG with the curves over the steps; an empty Markup where there is nothing to draw."""
    shown = [
        replace(c, points=c.points if c.dots else thinned(c.points), colour=i if c.colour is None else c.colour)
        for i, c in enumerate(c for c in curves if c.points)
    ]
    if not shown:
        return Markup("")
    xs, ys = ([p[k] for c in shown for p in c.points] for k in (0, 1))
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    if low == high:
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    y_ticks, x_ticks = ticks(low, high), ticks(min(xs), max(max(xs), min(xs) + 1), whole=True)
    frame = _Frame(min(xs), max(max(xs), min(xs) + 1), min(low, y_ticks[0]), max(high, y_ticks[-1]))
    parts = [frame.grid(x_ticks, y_ticks), *(frame.draw(c) for c in shown), frame.end_labels(shown)]
    told = "; ".join(f"{c.name} from {c.points[0][1]:.4g} to {c.points[-1][1]:.4g}" for c in shown)
    says = escape(f"{title}{f' ({unit})' if unit else ''} over {max(xs):.0f} steps: {told}")
    legend = Markup("").join(
        Markup('<span class="key line-{0}{1}">{2}</span> ').format(c.colour, " dashed" if c.dashed else "", c.name)
        for c in shown
        if len(shown) > 1
    )
    return Markup(
        '<figure><figcaption>{}{} {}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(title, f", {unit}" if unit else "", legend, WIDTH, HEIGHT, says, Markup("").join(parts))


@dataclass(frozen=True)
class _Frame:
    """Where a step and a value lie on the paper."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, step: float) -> float:
        return LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
        lines = [
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="tick end" x="{}" y="{}">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, LEFT - 8, f"{self.y(v) + 4:.1f}", label(v), y=f"{self.y(v):.1f}")
            for v in y_ticks
        ]
        lines += [
            Markup('<text class="tick middle{}" x="{:.1f}" y="{}">{}</text>').format(
                " sparse" if i % 2 else "", self.x(v), HEIGHT - 29, label(v)
            )
            for i, v in enumerate(x_ticks)
        ]
        lines.append(Markup('<text class="middle" x="{:.1f}" y="{}">step</text>').format(WIDTH / 2, HEIGHT - 7))
        return Markup("").join(lines)

    def draw(self, curve: Curve) -> Markup:
        places = [(f"{self.x(a):.1f}", f"{self.y(b):.1f}") for a, b in curve.points]
        line = Markup('<polyline class="line-{}{}" points="{}"/>').format(
            curve.colour, " dashed" if curve.dashed else "", " ".join(",".join(place) for place in places)
        )
        dots = [
            Markup('<circle class="line-{}" cx="{}" cy="{}" r="4"><title>step {:g}: {}</title></circle>').format(
                curve.colour, *place, step, label(value)
            )
            for place, (step, value) in zip(places, curve.points, strict=True)
            if curve.dots or step == curve.points[-1][0]
        ]
        return line + Markup("").join(dots)

    def end_labels(self, curves: Sequence[Curve]) -> Markup:
        """The last values, each above its point, and none over another that ends beside it."""
        values = {label(c.points[-1][1]): c.points[-1] for c in curves if not c.dashed}  # runs may end alike
        beside: dict[int, list[tuple[float, float]]] = {}
        for end in values.values():
            place = self.x(end[0])
            near = next((x for x in beside if abs(x - place) < LABEL_WIDTH), round(place))
            beside.setdefault(near, []).append(end)
        return Markup("").join(part for ends in beside.values() for part in self._column_of_labels(ends))

    def _column_of_labels(self, ends: Sequence[tuple[float, float]]) -> list[Markup]:
        """Of curves that end at about the same step, from the lowest up."""
        lowest, parts = HEIGHT - BOTTOM - 4.0, []
        for number, (step, value) in enumerate(sorted(ends, key=lambda end: end[1])):
            above = len(ends) - 1 - number  # those that still need room
            y = max(min(self.y(value) - 9, lowest), TOP + 10.0 + above * LABEL_ROW)
            lowest = y - LABEL_ROW
            shown = label(value) if abs(value) >= 1000 else label(float(f"{value:.3g}"))
            at = f"{self.x(step) - 6:.1f}", f"{y:.1f}"
            parts.append(Markup('<text class="end value" x="{}" y="{}">{}</text>').format(*at, shown))
        return parts


def ticks(low: float, high: float, *, whole: bool = False, about: int = 5) -> list[float]:
    """Round numbers that span from `low` to `high`, about five steps: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    step = max(1.0, round(step)) if whole else step
    first, last = (
        (math.ceil(low / step), math.floor(high / step)) if whole else (math.floor(low / step), math.ceil(high / step))
    )
    return [i * step for i in range(first, last + 1)]


def label(value: float) -> str:
    """A tick's number, short: 1,200, 3.5, 2e-04."""
    if value and abs(value) < 0.005:  # those of a learning rate are all written alike
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def thinned(points: Points) -> Points:
    """At most MOST_POINTS points: means over runs of neighbours, so that no spike is lost without a trace."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return points
    groups = (points[i : i + size] for i in range(0, len(points), size))
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
