"""Drawing primitives: a canvas for scenery, a pen with its own frame for objects, fabrics, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from openslip.scenes.world import Colour, Dice

Point = tuple[float, float]

CIRCLE: tuple[Point, ...] = tuple(
    (math.cos(k * math.tau / 28), math.sin(k * math.tau / 28)) for k in range(28)
)
_ACROSS = np.linspace(0.0, 1.0, 25)
_STEPS = np.linspace(0.0, 1.0, 7)[:-1]
_CATMULL_ROM = (
    0.5
    * np.stack([_STEPS**3, _STEPS**2, _STEPS, np.ones_like(_STEPS)], axis=1)
    @ np.array([[-1, 3, -3, 1], [2, -5, 4, -1], [-1, 0, 1, 0], [0, 2, 0, 0]], dtype=np.float64)
)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from a to b."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def shade(colour: Colour, amount: float) -> Colour:
    """Darken towards indigo (amount < 0) or lighten towards warm white (> 0), as illustrators do."""
    return mix(colour, (255, 248, 228), amount) if amount > 0 else mix(colour, (34, 26, 72), -amount)


@lru_cache(maxsize=32)
def _neighbours(count: int) -> np.ndarray:
    """Indices of each corner's predecessor, itself, and its two successors, (count, 4)."""
    return (np.arange(count)[:, None] + np.array([-1, 0, 1, 2])) % count


def smooth(points: Sequence[Point]) -> list[Point]:
    """Return a closed Catmull-Rom curve through the points, as a polygon with six sides each."""
    corners = np.array(points, dtype=np.float64)
    return list(
        map(tuple, np.matmul(_CATMULL_ROM, corners[_neighbours(len(corners))]).reshape(-1, 2).tolist())
    )


def bend(points: Sequence[Point]) -> list[Point]:
    """Return an open Catmull-Rom curve through the points, as a line with six pieces each."""
    corners = np.array([points[0], *points, points[-1]], dtype=np.float64)
    pieces = np.matmul(_CATMULL_ROM, corners[_neighbours(len(corners))[1:-2]])
    return [*map(tuple, pieces.reshape(-1, 2).tolist()), points[-1]]


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> list[Point]:
    """Return an ellipse as a polygon."""
    if not angle:
        return [(cx + rx * c, cy + ry * s) for c, s in CIRCLE]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(cx + rx * c * cos - ry * s * sin, cy + rx * c * sin + ry * s * cos) for c, s in CIRCLE]


def gradient(width: int, height: int, stops: Sequence[Colour]) -> Image.Image:
    """Return a vertical gradient through evenly spaced colours, top first."""
    count = len(stops)
    strip = Image.frombytes("RGB", (1, count), bytes(channel for stop in stops for channel in stop))
    strip = strip.resize((1, height), Image.Resampling.BILINEAR, (0, 0.5, 1, count - 0.5))
    return strip.resize((width, height), Image.Resampling.NEAREST)


@lru_cache(maxsize=64)
def _radial(strength: int) -> Image.Image:
    """A 64×64 round mask that fades smoothly to nothing at its rim; strength in percent."""
    axis = (np.arange(64) - 31.5) / 32
    far = np.clip(np.hypot(axis[:, None], axis[None]), 0, 1)
    return Image.fromarray((2.55 * strength * (1 - far) ** 2 * (1 + 2 * far) ** 0.5).round().astype(np.uint8))


class Canvas:
    """A square RGB picture in unit coordinates (0–1, y down); colours may be translucent."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = Image.new("RGB", (side, side))
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def backdrop(self, stops: Sequence[Colour], top: float = 0.0, bottom: float = 1.0) -> None:
        """Fill the rows from top to bottom with a vertical gradient."""
        y0, y1 = round(top * self.side), round(bottom * self.side)
        if y1 > y0:
            self.image.paste(gradient(self.side, y1 - y0, stops), (0, y0))

    def poly(self, points: Sequence[Point], colour: Colour, alpha: int = 255) -> None:
        """Fill a polygon."""
        s = self.side
        self.draw.polygon([(x * s, y * s) for x, y in points], fill=(*colour, alpha))

    def oval(self, cx: float, cy: float, rx: float, ry: float, colour: Colour, alpha: int = 255) -> None:
        """Fill an upright ellipse."""
        s = self.side
        box = ((cx - rx) * s, (cy - ry) * s, (cx + rx) * s, (cy + ry) * s)
        self.draw.ellipse(box, fill=(*colour, alpha))

    def line(self, points: Sequence[Point], width: float, colour: Colour, alpha: int = 255) -> None:
        """Draw an open line of a width in unit coordinates."""
        s = self.side
        self.draw.line(
            [(x * s, y * s) for x, y in points], (*colour, alpha), max(1, round(width * s)), "curve"
        )

    def wash(self, points: Sequence[Point], stops: Sequence[Colour]) -> None:
        """Fill a polygon with a vertical gradient from its top to its bottom (within the picture)."""
        s = self.side
        ys = [y for _, y in points]
        y0, y1 = max(0, math.floor(min(ys) * s)), min(s, math.ceil(max(ys) * s))
        if y1 <= y0:
            return
        mask = Image.new("L", (s, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x * s, y * s - y0) for x, y in points], fill=255)
        self.image.paste(gradient(s, y1 - y0, stops), (0, y0), mask)

    def glow(self, cx: float, cy: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """Lay a soft round light (or shadow) over the picture."""
        self.soft_oval(cx, cy, radius, radius, colour, strength)

    def soft_oval(self, cx: float, cy: float, rx: float, ry: float, colour: Colour, strength: float) -> None:
        """Lay a soft ellipse over the picture, `strength` (0–1) opaque in the middle."""
        s = self.side
        left, top = round((cx - rx) * s), round((cy - ry) * s)
        width, height = max(2, round(2 * rx * s)), max(2, round(2 * ry * s))
        x0, y0, x1, y1 = max(0, left), max(0, top), min(s, left + width), min(s, top + height)
        if x1 <= x0 or y1 <= y0:
            return
        u, v = 64 / width, 64 / height
        seen = ((x0 - left) * u, (y0 - top) * v, min(64.0, (x1 - left) * u), min(64.0, (y1 - top) * v))
        mask = _radial(round(100 * min(1.0, strength)))
        self.image.paste(colour, (x0, y0), mask.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, seen))

    def ridge(self, dice: Dice, level: float, swing: float, bumps: float) -> list[Point]:
        """Return the outline of a hill line at `level`, down to the bottom of the picture."""
        waves = np.sin(dice.random() * math.tau + bumps * _ACROSS * 6.24)
        waves += 0.4 * np.sin(dice.random() * math.tau + 2.3 * bumps * _ACROSS * 6.24)
        return [*zip(_ACROSS.tolist(), (level - swing * waves).tolist()), (1.0, 1.01), (0.0, 1.01)]


class Pen:
    """Draws one object on a transparent layer, in the object's own frame: x and y from -1 to 1, y down.

    `body` shapes are cut from the object's fabric (its colour and texture); the others have flat colours.
    """

    def __init__(
        self, side: int, place: Point, reach: float, angle: float = 0.0, mirrored: bool = False
    ) -> None:
        """Set the frame: `side` of the canvas in pixels, the object's centre and half-extent in its units."""
        self.side, self.scale = side, reach * side
        x, y, room = place[0] * side, place[1] * side, 1.55 * self.scale + 2
        left, top = (min(side - 1, max(0, math.floor(at - room))) for at in (x, y))
        self.origin = (left, top)
        self.size = (
            max(1, min(side, math.ceil(x + room)) - left),
            max(1, min(side, math.ceil(y + room)) - top),
        )
        self.layer = Image.new("RGBA", self.size)
        self.draw = ImageDraw.Draw(self.layer)
        cos, sin, flip = math.cos(angle), math.sin(angle), -1.0 if mirrored else 1.0
        self._frame = (
            *(cos * flip * self.scale, -sin * self.scale, x - left),
            *(sin * flip * self.scale, cos * self.scale, y - top),
        )
        self.fabric: Image.Image | None = None
        self.colour: Colour = (0, 0, 0)
        self.glows: list[tuple[float, float, float, Colour, float]] = []

    def map(self, points: Sequence[Point]) -> list[Point]:
        """Return the points in pixels of the layer."""
        a, b, c, d, e, f = self._frame
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def poly(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.map(points), fill=colour)

    def curve(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill the smooth closed curve through the points."""
        self.draw.polygon(self.map(smooth(points)), fill=colour)

    def oval(self, cx: float, cy: float, rx: float, ry: float, colour: Colour, angle: float = 0.0) -> None:
        """Fill an ellipse."""
        if rx == ry:
            self._disc(cx, cy, rx, colour)
        else:
            self.draw.polygon(self.map(ellipse(cx, cy, rx, ry, angle)), fill=colour)

    def _disc(self, cx: float, cy: float, radius: float, colour: Colour) -> None:
        a, b, c, d, e, f = self._frame
        x, y, r = a * cx + b * cy + c, d * cx + e * cy + f, radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw an open line with round ends."""
        pixels = self.map(points)
        thick = max(1, round(width * self.scale))
        self.draw.line(pixels, colour, thick, "curve")
        if thick > 2:
            r = (thick - 1) / 2
            for x, y in (pixels[0], pixels[-1]):
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def arc(
        self, cx: float, cy: float, radius: float, start: float, end: float, width: float, colour: Colour
    ) -> None:
        """Draw part of a circle; angles in turns, clockwise from the right."""
        turns = [(start + (end - start) * k / 10) * math.tau for k in range(11)]
        self.line([(cx + radius * math.cos(t), cy + radius * math.sin(t)) for t in turns], width, colour)

    def body(self, points: Sequence[Point]) -> None:
        """Fill a polygon with the object's fabric."""
        pixels = self.map(points)
        if self.fabric is None:
            self.draw.polygon(pixels, fill=self.colour)
            return
        xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
        x0, y0 = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        x1, y1 = min(self.size[0], math.ceil(max(xs)) + 1), min(self.size[1], math.ceil(max(ys)) + 1)
        if x1 <= x0 or y1 <= y0:
            return
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in pixels], fill=255)
        self.layer.paste(self.fabric.crop((x0, y0, x1, y1)), (x0, y0), mask)

    def body_curve(self, points: Sequence[Point]) -> None:
        """Fill the smooth closed curve through the points with the fabric."""
        self.body(smooth(points))

    def body_oval(self, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> None:
        """Fill an ellipse with the fabric."""
        self.body(ellipse(cx, cy, rx, ry, angle))

    def glow(self, cx: float, cy: float, radius: float, colour: Colour, strength: float = 0.8) -> None:
        """Ask for a soft light over the finished object."""
        ((x, y),) = self.map([(cx, cy)])
        x, y = (x + self.origin[0]) / self.side, (y + self.origin[1]) / self.side
        self.glows.append((x, y, radius * self.scale / self.side, colour, strength))
