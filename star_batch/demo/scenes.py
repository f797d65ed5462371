"""Labelled synthetic scenes: coloured shapes on a 3 x 3 grid, with questions and exact answers.

A scene is a function of its seed and a picture is a function of its scene. Training and held-out scenes
never share a seed. This module knows no model, no tokenizer and no file; it needs only numpy and Pillow.
"""

import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 168
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE  # patches along a side
NUM_PATCHES = GRID * GRID
CELL_SIZE = IMAGE_SIZE // 3

Shape = Literal["circle", "square", "triangle", "star", "cross", "ring"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Kind = Literal["count", "colour", "shape", "where", "place", "exists", "caption"]
Split = Literal["train", "held-out"]
Box = tuple[int, int, int, int]
Point = tuple[float, float]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
KINDS: tuple[Kind, ...] = get_args(Kind)
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four")
RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "green": (35, 160, 55),
    "blue": (40, 75, 225),
    "yellow": (240, 210, 30),
    "purple": (150, 50, 185),
    "cyan": (30, 195, 210),
}
# How often each kind is asked: questions that look one thing up are learnt last, so they come twice as often.
MIX: dict[Kind, int] = {
    "count": 1,
    "colour": 2,
    "shape": 2,
    "where": 2,
    "place": 2,
    "exists": 2,
    "caption": 1,
}


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
    def place(self) -> str:
        return CELLS[self.cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One to four things in reading order on a plain, slightly noisy background."""

    seed: int
    background: tuple[int, int, int]
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one scene and the one answer that counts as right."""

    text: str
    answer: str
    kind: Kind


# --- scenes ---------------------------------------------------------------------------------------------


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


# --- pictures -------------------------------------------------------------------------------------------


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


# --- questions ------------------------------------------------------------------------------------------


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """Every question that has one right answer in this scene, each in a wording that `rng` chooses."""
    found = (
        _ask_count(scene, rng),
        *_ask_colours(scene, rng),
        *_ask_shapes(scene, rng),
        *(_ask_where(scene, thing, rng) for thing in scene.things),
        *_ask_places(scene, rng),
        *_ask_existence(scene, rng),
        _ask_caption(scene, rng),
    )
    return list(dict.fromkeys(found))


def choose_questions(
    scene: Scene, rng: random.Random, num_questions: int, mix: Mapping[Kind, int] = MIX
) -> list[Question]:
    """Different questions about one scene, kinds drawn by `mix`; fewer when the scene has no more."""
    stock: dict[Kind, list[Question]] = {}
    for question in rng.sample(found := questions(scene, rng), len(found)):
        stock.setdefault(question.kind, []).append(question)
    chosen: list[Question] = []
    while stock and len(chosen) < num_questions:
        kind = rng.choices(list(stock), [mix[kind] for kind in stock])[0]
        chosen.append(stock[kind].pop())
        stock = {kind: rest for kind, rest in stock.items() if rest}
    return chosen


def _ask_count(scene: Scene, rng: random.Random) -> Question:
    number = NUMBERS[len(scene.things)]
    sentence = "there is one object" if len(scene.things) == 1 else f"there are {number} objects"
    text, answer = rng.choice(
        (
            ("how many objects are there?", number),
            ("how many things do you see?", number),
            ("count the objects.", sentence),
        )
    )
    return Question(text=text, answer=answer, kind="count")


def _ask_colours(scene: Scene, rng: random.Random) -> Iterator[Question]:
    for thing in _with_unique([thing.shape for thing in scene.things], scene.things):
        text, answer = rng.choice(
            (
                (f"what colour is the {thing.shape}?", thing.colour),
                (f"which colour does the {thing.shape} have?", thing.colour),
                (f"tell me the colour of the {thing.shape}.", f"the {thing.shape} is {thing.colour}"),
            )
        )
        yield Question(text=text, answer=answer, kind="colour")


def _ask_shapes(scene: Scene, rng: random.Random) -> Iterator[Question]:
    for thing in _with_unique([thing.colour for thing in scene.things], scene.things):
        text, answer = rng.choice(
            (
                (f"what shape is the {thing.colour} object?", thing.shape),
                (f"which shape does the {thing.colour} thing have?", thing.shape),
                (f"tell me the shape of the {thing.colour} object.", f"it is a {thing.shape}"),
            )
        )
        yield Question(text=text, answer=answer, kind="shape")


def _with_unique(values: Sequence[str], things: Sequence[Thing]) -> list[Thing]:
    counts = Counter(values)
    return [thing for value, thing in zip(values, things, strict=True) if counts[value] == 1]


def _ask_where(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    text, answer = rng.choice(
        (
            (f"where is the {thing.name}?", f"at the {thing.place}"),
            (f"in which place is the {thing.name}?", thing.place),
            (f"tell me where the {thing.name} is.", f"the {thing.name} is at the {thing.place}"),
        )
    )
    return Question(text=text, answer=answer, kind="where")


def _ask_places(scene: Scene, rng: random.Random) -> Iterator[Question]:
    names = {thing.cell: f"a {thing.name}" for thing in scene.things}
    empty = [cell for cell in range(len(CELLS)) if cell not in names]
    for cell in (*names, *rng.sample(empty, max(1, len(names) // 2))):
        text = rng.choice(("what is at the {}?", "what do you see at the {}?", "name the object at the {}."))
        yield Question(text=text.format(CELLS[cell]), answer=names.get(cell, "nothing"), kind="place")


def _ask_existence(scene: Scene, rng: random.Random) -> Iterator[Question]:
    for thing in rng.sample(scene.things, min(2, len(scene.things))):
        yield _ask_present(thing, rng)
        yield _ask_absent(scene, thing, rng)


def _ask_present(thing: Thing, rng: random.Random) -> Question:
    text, answer = rng.choice(
        (
            (f"is there a {thing.name}?", "yes"),
            (f"do you see a {thing.name}?", "yes"),
            (f"is there a {thing.shape} in the picture?", "yes"),
            (f"do you see anything {thing.colour}?", "yes"),
            (f"can you find a {thing.name}?", f"yes, at the {thing.place}"),
        )
    )
    return Question(text=text, answer=answer, kind="exists")


def _ask_absent(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    """Half of the absent names share the colour or the shape of a thing that is there."""
    shape = rng.choice([shape for shape in SHAPES if shape not in {other.shape for other in scene.things}])
    colour = rng.choice([colour for colour in COLOURS if colour not in {other.colour for other in scene.things}])
    look = rng.choice(((colour, shape), (colour, shape), (thing.colour, shape), (colour, thing.shape)))
    name = " ".join(look)
    text = rng.choice(
        (
            f"is there a {name}?",
            f"do you see a {name}?",
            f"is there a {shape} in the picture?",
            f"do you see anything {colour}?",
            f"can you find a {name}?",
        )
    )
    return Question(text=text, answer="no", kind="exists")


def _ask_caption(scene: Scene, rng: random.Random) -> Question:
    long = _join([f"a {thing.name} at the {thing.place}" for thing in scene.things])
    short = _join([f"a {thing.name}" for thing in scene.things])
    text, answer = rng.choice(
        (("describe the picture.", long), ("what does the picture show?", long), ("list the objects.", short))
    )
    return Question(text=text, answer=answer, kind="caption")


def _join(parts: Sequence[str]) -> str:
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last


# --- rows -----------------------------------------------------------------------------------------------

BadKind = Literal["no-bytes", "cut-bytes", "not-an-image", "no-question"]
BAD_KINDS: tuple[BadKind, ...] = get_args(BadKind)


def make_rows(num_rows: int, seed: int, num_bad: int = 0, *, questions_per_image: int = 1) -> Iterator[dict[str, Any]]:
    """Held-out rows `id, image (PNG bytes), question, answer, kind`.

    A bad row's id begins with its `BadKind`. The bad rows are part of `num_rows` and stand at places that
    depend on the arguments alone.
    """
    places = sorted(random.Random(seed).sample(range(num_rows), num_bad))
    bad: dict[int, BadKind] = {place: BAD_KINDS[order % len(BAD_KINDS)] for order, place in enumerate(places)}
    for index, row in zip(range(num_rows), _good_rows(seed, questions_per_image), strict=False):
        row["id"] = f"{bad.get(index, 'row')}-{seed}-{index:06d}"
        yield _spoil(row, bad[index]) if index in bad else row


def _good_rows(seed: int, questions_per_image: int) -> Iterator[dict[str, Any]]:
    index = 0
    while True:
        scene = make_scene(scene_seed("held-out", seed, index))
        rng = random.Random(scene.seed)
        image = encode_png(render(scene))
        for question in choose_questions(scene, rng, questions_per_image):
            yield {
                "id": "",
                "image": image,
                "question": question.text,
                "answer": question.answer,
                "kind": question.kind,
            }
        index += 1


def _spoil(row: dict[str, Any], kind: BadKind) -> dict[str, Any]:
    image: bytes = row["image"]
    match kind:
        case "no-bytes":
            return row | {"image": None}
        case "cut-bytes":
            return row | {"image": image[: len(image) // 2]}
        case "not-an-image":
            return row | {"image": b"this is not an image"}
        case "no-question":
            return row | {"question": ""}


def encode_png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
