"""Pictures of a few plain shapes, and what can be said of them."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw

SIDE = 48  # pixels
FINER = 4  # drawn so many times larger, then made smaller, so that edges are smooth

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 60),
    "blue": (40, 90, 210),
    "yellow": (245, 205, 50),
    "orange": (245, 130, 30),
    "purple": (130, 60, 170),
    "brown": (120, 75, 40),
    "pink": (245, 140, 185),
}
GROUNDS = {"white": (255, 255, 255), "grey": (150, 150, 150), "black": (15, 15, 15)}
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring", "diamond", "bar")
PLACES = {"left": (0.28, 0.5), "right": (0.72, 0.5), "top": (0.5, 0.28), "bottom": (0.5, 0.72)}
SIZES = {"small": 0.10, "large": 0.17}  # radius, as a share of the side
NUMBERS = ("one", "two", "three")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: some shapes of one kind and colour in one place."""

    count: int
    size: str
    colour: str
    shape: str
    place: str
    ground: str


def all_scenes(
    shapes: tuple[str, ...] = SHAPES, colours: tuple[str, ...] = tuple(COLOURS)
) -> Iterator[Scene]:
    """Every scene of these shapes and colours."""
    for count, size, colour, shape, place, ground in product(
        (1, 2, 3), SIZES, colours, shapes, PLACES, GROUNDS
    ):
        yield Scene(count, size, colour, shape, place, ground)


def plainly(scene: Scene) -> str:
    """A sentence, as a person might say it.

    >>> plainly(Scene(2, "small", "red", "star", "left", "white"))
    'two small red stars on the left, on a white ground.'
    """
    what = f"{NUMBERS[scene.count - 1]} {scene.size} {scene.colour} {scene.shape}{'s' * (scene.count > 1)}"
    where = f"on the {scene.place}" if scene.place in ("left", "right") else f"at the {scene.place}"
    return f"{what.replace('crosss', 'crosses')} {where}, on a {scene.ground} ground."


def tersely(scene: Scene) -> str:
    """Catchwords, as in a catalogue.

    >>> tersely(Scene(2, "small", "red", "star", "left", "white"))
    'star x2, red, small; white behind; left side'
    """
    return f"{scene.shape} x{scene.count}, {scene.colour}, {scene.size}; {scene.ground} behind; {scene.place} side"


def draw(scene: Scene, generator: random.Random) -> Image.Image:
    """RGB, with places, sizes and colours a little off, as in life."""
    side = SIDE * FINER
    image = Image.new("RGB", (side, side), _nearly(GROUNDS[scene.ground], generator))
    canvas = ImageDraw.Draw(image)
    x, y = PLACES[scene.place]
    upright = scene.place in ("left", "right")
    for number in range(scene.count):
        shift = (number - (scene.count - 1) / 2) * 0.3
        centre = (x, y + shift) if upright else (x + shift, y)
        middle = [(part + generator.uniform(-0.03, 0.03)) * side for part in centre]
        radius = SIZES[scene.size] * side * generator.uniform(0.9, 1.1)
        _shape(canvas, scene.shape, middle, radius, _nearly(COLOURS[scene.colour], generator))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def _nearly(colour: tuple[int, int, int], generator: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(max(part + generator.randint(-10, 10), 0), 255) for part in colour)
    return red, green, blue


def _shape(
    canvas: ImageDraw.ImageDraw, shape: str, middle: list[float], radius: float, fill: tuple[int, int, int]
) -> None:
    x, y = middle
    box = (x - radius, y - radius, x + radius, y + radius)
    thin = radius / 3
    match shape:
        case "circle":
            canvas.ellipse(box, fill)
        case "ring":
            canvas.ellipse(box, outline=fill, width=round(thin * 1.2))
        case "square":
            canvas.rectangle(box, fill)
        case "cross":
            canvas.rectangle((x - radius, y - thin, x + radius, y + thin), fill)
            canvas.rectangle((x - thin, y - radius, x + thin, y + radius), fill)
        case "bar":
            canvas.rectangle((x - radius, y - thin, x + radius, y + thin), fill)
        case "triangle":
            canvas.polygon(_corners(middle, [radius * 1.2] * 3), fill)
        case "diamond":
            canvas.polygon(_corners(middle, [radius * 1.2, radius * 0.7] * 2), fill)
        case "star":
            canvas.polygon(_corners(middle, [radius * 1.2, radius * 0.5] * 5), fill)


def _corners(middle: list[float], radii: list[float]) -> list[tuple[float, float]]:
    """Points around the middle at equal angles, the first above it."""
    turns = [2 * math.pi * number / len(radii) for number in range(len(radii))]
    return [
        (middle[0] + radius * math.sin(turn), middle[1] - radius * math.cos(turn))
        for radius, turn in zip(radii, turns, strict=True)
    ]
