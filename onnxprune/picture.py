"""What is lost against what is kept, as a picture (SVG): the only drawing that is needed, so no library draws it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 40, 56
COLOUR, GREY = "#1f5fa8", "#888"


@dataclass(frozen=True)
class Dot:
    """One model: the share kept, the share lost and its interval if that is known, and what is written beside it."""

    kept: float
    lost: float
    low: float | None
    high: float | None
    label: str
    marked: bool = False


def pareto(title: str, across: str, up: str, dots: Sequence[Dot]) -> str:
    """A picture of the dots, joined from right to left; marked ones are ringed. Shares are shown in percent."""
    dots = sorted(dots, key=lambda dot: -dot.kept)
    xs = _ticks(0.0, 100 * max(1.0, *(d.kept for d in dots)))
    ends = [100 * value for d in dots for value in (d.lost, d.low, d.high) if value is not None]
    ys = _ticks(min(0.0, *ends), max(1.0, *ends))

    def x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (100 * share - xs[0]) / (xs[-1] - xs[0])

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (100 * share - ys[0]) / (ys[-1] - ys[0])

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        yield _text(WIDTH / 2, 22, title, 15)
        for tick in xs:
            yield _line(x(tick / 100), y(ys[0] / 100), x(tick / 100), y(ys[-1] / 100), "#e4e4e4")
            yield _text(x(tick / 100), HEIGHT - BOTTOM + 18, f"{tick:g}")
        for tick in ys:
            yield _line(x(xs[0] / 100), y(tick / 100), x(xs[-1] / 100), y(tick / 100), "#e4e4e4" if tick else GREY)
            yield _text(LEFT - 8, y(tick / 100) + 4, f"{tick:g}", anchor="end")
        yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, f"{across}, %")
        yield _text(18, HEIGHT / 2, f"{up}, %", turn=f' transform="rotate(-90 18 {HEIGHT / 2:g})"')
        path = " ".join(f"{x(d.kept):.1f},{y(d.lost):.1f}" for d in dots)
        yield f'<polyline points="{path}" fill="none" stroke="{COLOUR}"/>'
        for d in dots:
            if d.low is not None and d.high is not None:
                yield _line(x(d.kept), y(d.low), x(d.kept), y(d.high), COLOUR)
            yield f'<circle cx="{x(d.kept):.1f}" cy="{y(d.lost):.1f}" r="4" fill="{COLOUR}"/>'
            if d.marked:
                yield f'<circle cx="{x(d.kept):.1f}" cy="{y(d.lost):.1f}" r="8" fill="none" stroke="#c22"/>'
            side, anchor = (-7, "end") if x(d.kept) > WIDTH - 120 else (7, "start")
            yield _text(x(d.kept) + side, y(d.lost) - 7, d.label, 11, anchor)
        yield "</svg>"

    return "\n".join(parts()) + "\n"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about six, from at most `low` to at least `high`."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * n, 10) for n in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "middle", turn: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'
