"""How a scene is drawn: a picture is a function of its scene. It needs only numpy and Pillow.

Knows no question and no file.
"""

import io
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from star_batch.demo.scenes import IMAGE_SIZE, Box, Colour, Scene, Thing

Point = tuple[float, float]

RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "green": (35, 160, 55),
    "blue": (40, 75, 225),
    "yellow": (240, 210, 30),
    "purple": (150, 50, 185),
    "cyan": (30, 195, 210),
}


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 168 x 168 pixels."""
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), scene.background)
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(draw, thing, scene.background)
    noise = np.random.default_rng(scene.seed).integers(-6, 7, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, background: tuple[int, int, int]) -> None:
    left, top, right, bottom = thing.box
    box = (left, top, right - 1, bottom - 1)
    fill = RGB[thing.colour]
    match thing.shape:
        case "circle":
            draw.ellipse(box, fill=fill)
        case "square":
            draw.rectangle(box, fill=fill)
        case "ring":
            draw.ellipse(box, fill=fill)
            draw.ellipse(_shrink(box, (right - left) // 4), fill=background)
        case "cross":
            _draw_cross(draw, box, fill)
        case "triangle":
            apex = ((left + right - 1) / 2, top)
            draw.polygon([apex, (right - 1, bottom - 1), (left, bottom - 1)], fill=fill)
        case "star":
            draw.polygon(_star_points(box), fill=fill)


def _shrink(box: Box, margin: int) -> Box:
    left, top, right, bottom = box
    return left + margin, top + margin, right - margin, bottom - margin


def _draw_cross(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    inset = (right - left) // 3
    draw.rectangle((left + inset, top, right - inset, bottom), fill=fill)
    draw.rectangle((left, top + inset, right, bottom - inset), fill=fill)


def _star_points(box: Box) -> list[Point]:
    left, top, right, bottom = box
    radius = (right - left) / 2
    radii = (radius, 0.42 * radius) * 5
    angles = [pi * step / 5 - pi / 2 for step in range(10)]
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    return [
        (middle_x + length * cos(angle), middle_y + length * sin(angle))
        for length, angle in zip(radii, angles, strict=True)
    ]


def encode_png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
