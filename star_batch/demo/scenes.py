"""What is in a labelled synthetic scene: coloured shapes on a 3 x 3 grid. It needs the standard library alone.

A scene is a function of its seed. Training and held-out scenes never share a seed. Knows no picture, no question,
no model and no file.
"""

import random
from dataclasses import dataclass
from typing import Literal, get_args

IMAGE_SIZE = 168
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE  # patches along a side
NUM_PATCHES = GRID * GRID
CELL_SIZE = IMAGE_SIZE // 3

Shape = Literal["circle", "square", "triangle", "star", "cross", "ring"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Split = Literal["train", "held-out"]
Box = tuple[int, int, int, int]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One coloured shape; `box` is (left, top, right, bottom) in pixels, right and bottom excluded."""

    shape: Shape
    colour: Colour
    cell: int
    box: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def row(self) -> int:
        return self.cell // 3

    @property
    def column(self) -> int:
        return self.cell % 3

    @property
    def place(self) -> str:
        return CELLS[self.cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One to four things in reading order on a plain, slightly noisy background."""

    seed: int
    background: tuple[int, int, int]
    things: tuple[Thing, ...]


def scene_seed(split: Split, seed: int, index: int) -> int:
    """Seed of scene `index` of stream `seed`: even for training, odd for held-out scenes."""
    return ((seed << 32) + index) * 2 + (split == "held-out")


def make_scene(seed: int) -> Scene:
    """The scene of this seed; no two of its things have both the same colour and the same shape."""
    rng = random.Random(seed)
    num_things = rng.choice((1, 2, 2, 3, 3, 4))
    cells = sorted(rng.sample(range(len(CELLS)), num_things))
    looks = rng.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], num_things)
    things = tuple(
        Thing(shape=shape, colour=colour, cell=cell, box=_draw_box(cell, rng))
        for cell, (shape, colour) in zip(cells, looks, strict=True)
    )
    return Scene(seed=seed, background=_draw_background(rng), things=things)


def _draw_box(cell: int, rng: random.Random) -> Box:
    size = rng.randint(28, 42)
    left = cell % 3 * CELL_SIZE + rng.randint(1, CELL_SIZE - size - 1)
    top = cell // 3 * CELL_SIZE + rng.randint(1, CELL_SIZE - size - 1)
    return left, top, left + size, top + size


def _draw_background(rng: random.Random) -> tuple[int, int, int]:
    tone = rng.choice((rng.randint(15, 75), rng.randint(190, 245)))
    red, green, blue = (tone + rng.randint(-8, 8) for _ in range(3))
    return red, green, blue


def object_patches(scene: Scene) -> list[int]:
    """Sorted indices, in reading order, of the patches that the things' boxes touch."""
    return sorted({patch for thing in scene.things for patch in thing_patches(thing)})


def thing_patches(thing: Thing) -> list[int]:
    """Sorted indices of the patches that one thing's box touches."""
    left, top, right, bottom = thing.box
    rows = range(top // PATCH_SIZE, (bottom - 1) // PATCH_SIZE + 1)
    columns = range(left // PATCH_SIZE, (right - 1) // PATCH_SIZE + 1)
    return [row * GRID + column for row in rows for column in columns]
