"""Draw the product pictures of the demo shop: how a product looks, and nothing of what it is for.

A picture shows a product's category by its shape, its colour, and its pattern. Backdrop, placement, size and light
vary freely and tell nothing. Pictures are drawn at twice their size and halved, which smooths the edges.
"""

import io
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

Rgb = tuple[int, int, int]
Grid = NDArray[np.float64]

#: Width and height of a picture in pixels, and how many times larger it is drawn.
SIDE, SMOOTHING = 96, 2
CANVAS = SIDE * SMOOTHING
#: Colours in the PNG's palette: enough for the shading, and a picture takes about a kilobyte.
PALETTE_SIZE = 96

#: Round the colour wheel: a shopper's taste drifts from each to the next, and from the last to the first.
COLOURS: dict[str, Rgb] = {
    "red": (224, 72, 46),
    "yellow": (242, 208, 44),
    "green": (58, 158, 66),
    "teal": (28, 156, 124),
    "sky": (74, 168, 228),
    "blue": (50, 66, 188),
    "violet": (140, 72, 190),
    "pink": (230, 92, 162),
}

WHITE: Rgb = (255, 255, 255)
CREAM: Rgb = (250, 242, 222)
PAPER: Rgb = (236, 230, 216)
INK: Rgb = (44, 42, 56)
WOOD: Rgb = (176, 128, 84)
DARK_WOOD: Rgb = (122, 84, 56)
BRASS: Rgb = (200, 166, 96)
SHADOW: Rgb = (70, 60, 56)

#: Floors; the photographer paints the wall in a tint of the product's colour, with this share of it.
FLOORS: tuple[Rgb, ...] = ((224, 212, 196), (168, 166, 166), (180, 134, 98), (124, 112, 104))
TINT = 0.42

#: Drawn by lot between these: repeats of a pattern across the canvas and where in one it starts, middle and size of
#: the product as shares of the canvas's half, brightness.
REPEATS = (6.3, 6.7)
PHASE = (0.0, 0.2)
MIDDLE = (0.96, 1.04)
SIZE = (0.88, 0.94)
BRIGHTNESS = (0.96, 1.04)


def _mixed(colour: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round((1 - share) * one + share * two) for one, two in zip(colour, other, strict=True))
    return red, green, blue


class _Stroke(NamedTuple):
    """One shape: x, y, x, y... in units of half a product, from its middle; filled where it has no line."""

    kind: Literal["rectangle", "ellipse", "polygon", "line"]
    points: tuple[float, ...]
    line: float | None = None


def _rectangle(*box: float, line: float | None = None) -> _Stroke:
    return _Stroke("rectangle", box, line)


def _ellipse(*box: float, line: float | None = None) -> _Stroke:
    return _Stroke("ellipse", box, line)


def _polygon(*points: float) -> _Stroke:
    return _Stroke("polygon", points)


def _line(*points: float, line: float) -> _Stroke:
    return _Stroke("line", points, line)


def _light(profile: list[float], *, upright: bool = False) -> Image.Image:
    """Return brightness along one axis: left to right, or top to bottom where upright."""
    steps = np.interp(np.linspace(0, len(profile) - 1, CANVAS), np.arange(len(profile)), profile)
    row = np.round(255 * steps).astype(np.uint8)[None, :, None].repeat(3, axis=2)
    return Image.fromarray(row.transpose(1, 0, 2) if upright else row)


ROUND = _light([0.72, 0.95, 1.0, 1.0, 0.92, 0.62])
GLOWING = _light([0.86, 1.0, 0.94], upright=True)
FALLING = _light([1.0, 0.97, 0.82], upright=True)


class _Scene:
    """A picture in the making: a canvas, and the product's colour and fabric, from which its body is cut."""

    def __init__(self, *, colour: Rgb, fabric: Image.Image, generator: np.random.Generator) -> None:
        self.colour = colour
        self.fabric = fabric
        self.floor = FLOORS[generator.integers(len(FLOORS))]
        self.middle = generator.uniform(*MIDDLE, size=2)
        self.size = generator.uniform(*SIZE)
        self.wall = _mixed(WHITE, colour, TINT)
        self.canvas = Image.new("RGB", (CANVAS, CANVAS), self.wall)

    def lay_floor(self, level: float) -> None:
        """Cover the wall with a floor from level downwards."""
        self.canvas.paste(self.floor, (0, round(self._pixels(0, level)[1]), CANVAS, CANVAS))

    def lay_boards(self, count: int) -> None:
        """Turn the wall into a floor of painted boards, seen from above."""
        for top in range(0, CANVAS, CANVAS // count):
            self.canvas.paste(_mixed(self.wall, INK, 0.1), (0, top, CANVAS, top + SMOOTHING))

    def shadow(self, *box: float, strength: int) -> None:
        """Cast a soft shadow, from strength 0 to 255."""
        mask = self._mask((_ellipse(*box),)).point(lambda covered: covered * strength // 255)
        self.canvas.paste(SHADOW, mask=mask.filter(ImageFilter.BoxBlur(CANVAS / 40)))

    def part(self, *strokes: _Stroke, colour: Rgb, light: Image.Image | None = None) -> None:
        """Paint strokes in one colour."""
        self._paste(Image.new("RGB", self.canvas.size, colour), strokes, light)

    def body(self, *strokes: _Stroke, light: Image.Image | None = None) -> None:
        """Cut strokes from the fabric."""
        self._paste(self.fabric, strokes, light)

    def _paste(self, surface: Image.Image, strokes: tuple[_Stroke, ...], light: Image.Image | None) -> None:
        mask = self._mask(strokes)
        if light is not None:
            box = mask.getbbox() or (0, 0, CANVAS, CANVAS)
            lit = surface.crop(box)
            surface = surface.copy()
            surface.paste(ImageChops.multiply(lit, light.resize(lit.size)), box)
        self.canvas.paste(surface, mask=mask)

    def _mask(self, strokes: tuple[_Stroke, ...]) -> Image.Image:
        mask = Image.new("L", self.canvas.size)
        draw = ImageDraw.Draw(mask)
        for stroke in strokes:
            points = self._pixels(*stroke.points)
            width = 1 if stroke.line is None else max(1, round(CANVAS / 2 * self.size * stroke.line))
            if stroke.kind == "line":
                draw.line(points, fill=255, width=width)
            elif stroke.kind == "polygon":
                draw.polygon(points, fill=255)
            else:
                shape = draw.ellipse if stroke.kind == "ellipse" else draw.rectangle
                shape(points, fill=255 if stroke.line is None else None, outline=255, width=width)
        return mask

    def _pixels(self, *points: float) -> list[float]:
        placed = np.reshape(points, (-1, 2)) * self.size + self.middle
        return [float(pixel) for pixel in placed.ravel() * CANVAS / 2]


def _mug(scene: _Scene) -> None:
    scene.lay_floor(0.45)
    scene.shadow(-0.72, 0.5, 0.95, 0.92, strength=110)
    scene.part(_ellipse(0.22, -0.4, 0.92, 0.42, line=0.15), colour=scene.colour, light=ROUND)
    scene.body(_rectangle(-0.66, -0.62, 0.5, 0.66), _ellipse(-0.66, 0.5, 0.5, 0.82), light=ROUND)
    scene.part(_ellipse(-0.66, -0.78, 0.5, -0.46), colour=CREAM)
    scene.part(_ellipse(-0.58, -0.72, 0.42, -0.5), colour=DARK_WOOD)


def _poster(scene: _Scene) -> None:
    scene.shadow(-0.62, -0.8, 0.76, 1.0, strength=70)
    scene.part(_rectangle(-0.72, -0.92, 0.72, 0.92), colour=DARK_WOOD)
    scene.part(_rectangle(-0.66, -0.86, 0.66, 0.86), colour=WHITE)
    scene.body(_rectangle(-0.56, -0.76, 0.56, 0.76))


def _lamp(scene: _Scene) -> None:
    scene.lay_floor(0.6)
    scene.shadow(-0.6, 0.68, 0.75, 1.0, strength=110)
    scene.part(_rectangle(-0.06, 0.1, 0.06, 0.8), colour=BRASS, light=ROUND)
    scene.part(_ellipse(-0.36, 0.72, 0.36, 0.94), colour=BRASS, light=ROUND)
    scene.body(_polygon(-0.46, -0.88, 0.46, -0.88, 0.82, 0.26, -0.82, 0.26), light=GLOWING)


def _rug(scene: _Scene) -> None:
    scene.lay_boards(6)
    scene.shadow(-0.95, -0.5, 1.0, 0.78, strength=60)
    fringe = (_line(-0.98, level, 0.98, level, line=0.04) for level in np.linspace(-0.56, 0.56, 13))
    scene.part(*fringe, colour=CREAM)
    scene.body(_rectangle(-0.84, -0.6, 0.84, 0.6))
    scene.part(_rectangle(-0.76, -0.52, 0.76, 0.52, line=0.04), colour=CREAM)


def _cushion(scene: _Scene) -> None:
    scene.lay_floor(0.1)
    scene.shadow(-0.85, 0.55, 0.95, 0.95, strength=110)
    points = (-0.84, -0.8, 0, -0.7, 0.84, -0.8, 0.74, 0, 0.86, 0.8, 0, 0.74, -0.86, 0.8, -0.74, 0)
    scene.body(_polygon(*points), light=FALLING)


def _vase(scene: _Scene) -> None:
    scene.lay_floor(0.55)
    scene.shadow(-0.55, 0.68, 0.75, 1.0, strength=110)
    for x, y in ((-0.4, -0.82), (-0.06, -0.92), (0.34, -0.8)):
        scene.part(_line(0, -0.35, x, y, line=0.05), colour=DARK_WOOD)
        scene.part(_ellipse(x - 0.1, y - 0.1, x + 0.1, y + 0.12), colour=WOOD)
    neck, lip = _rectangle(-0.24, -0.44, 0.24, 0.1), _ellipse(-0.34, -0.52, 0.34, -0.36)
    scene.body(neck, lip, _ellipse(-0.68, -0.22, 0.68, 0.9), _rectangle(-0.36, 0.6, 0.36, 0.92), light=ROUND)


def _notebook(scene: _Scene) -> None:
    scene.shadow(-0.68, -0.8, 0.86, 1.02, strength=90)
    scene.part(_rectangle(-0.62, -0.84, 0.72, 0.9), colour=PAPER)
    scene.body(_rectangle(-0.68, -0.9, 0.66, 0.84), light=FALLING)
    scene.part(_rectangle(-0.68, -0.9, -0.5, 0.84), _rectangle(-0.25, -0.55, 0.41, -0.17), colour=INK)
    scene.part(_rectangle(-0.22, -0.52, 0.38, -0.2), colour=CREAM)


def _clock(scene: _Scene) -> None:
    scene.shadow(-0.78, -0.7, 0.92, 1.0, strength=80)
    scene.part(_ellipse(-0.9, -0.9, 0.9, 0.9), colour=WOOD)
    scene.body(_ellipse(-0.8, -0.8, 0.8, 0.8))
    scene.part(_ellipse(-0.42, -0.42, 0.42, 0.42), colour=WOOD)
    scene.part(_ellipse(-0.37, -0.37, 0.37, 0.37), colour=CREAM)
    hours, minutes = _line(0, 0, -0.18, -0.2, line=0.07), _line(0, 0, 0.06, -0.32, line=0.05)
    scene.part(hours, minutes, _ellipse(-0.06, -0.06, 0.06, 0.06), colour=INK)


#: How each category is drawn.
DRAWN: dict[str, Callable[[_Scene], None]] = {
    "mug": _mug,
    "poster": _poster,
    "lamp": _lamp,
    "rug": _rug,
    "cushion": _cushion,
    "vase": _vase,
    "notebook": _notebook,
    "clock": _clock,
}


class _Pattern(NamedTuple):
    """A second colour, which lies where `cover` of x and y, in repeats, is above 0."""

    cover: Callable[[Grid, Grid], Grid]
    second: Rgb


def _plain(x: Grid, y: Grid) -> Grid:
    return np.zeros_like(x * y)


def _striped(x: Grid, y: Grid) -> Grid:
    return 0.5 - y % 1 + 0 * x


def _dotted(x: Grid, y: Grid) -> Grid:
    shift = 0.5 * (np.floor(y) % 2)
    return 0.3 - np.hypot((x + shift) % 1 - 0.5, y % 1 - 0.5)


def _zigzag(x: Grid, y: Grid) -> Grid:
    return 0.4 - (y + np.abs(x % 1 - 0.5)) % 1


#: A shopper keeps to one pattern.
PATTERNS: dict[str, _Pattern] = {
    "plain": _Pattern(_plain, WHITE),
    "striped": _Pattern(_striped, CREAM),
    "dotted": _Pattern(_dotted, WHITE),
    "zigzag": _Pattern(_zigzag, INK),
}


def draw_picture(*, category: str, colour: str, pattern: str, generator: np.random.Generator) -> bytes:
    """Return a PNG of SIDE x SIDE pixels; what its three attributes leave open is drawn by lot."""
    fabric = _fabric(COLOURS[colour], PATTERNS[pattern], generator)
    scene = _Scene(colour=COLOURS[colour], fabric=fabric, generator=generator)
    DRAWN[category](scene)
    lit = ImageEnhance.Brightness(scene.canvas.reduce(SMOOTHING)).enhance(generator.uniform(*BRIGHTNESS))
    file = io.BytesIO()
    palette = lit.quantize(PALETTE_SIZE, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(file, format="PNG")
    return file.getvalue()


def _fabric(first: Rgb, pattern: _Pattern, generator: np.random.Generator) -> Image.Image:
    """Return a canvas full of the pattern in the colour, its repeats and phase drawn by lot."""
    phase = generator.uniform(*PHASE, size=2)
    places = np.arange(CANVAS) / CANVAS * generator.uniform(*REPEATS)
    covered = pattern.cover(places[None, :] + phase[0], places[:, None] + phase[1]) > 0
    return Image.fromarray(np.where(covered[..., None], np.array(pattern.second, np.uint8), np.array(first, np.uint8)))
