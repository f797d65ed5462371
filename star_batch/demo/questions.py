"""Which questions are asked about a scene, and the exact answers. It needs the standard library alone.

Knows no picture, no model and no tokenizer.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, get_args

from star_batch.demo.scenes import CELLS, COLOURS, SHAPES, Scene, Thing

Kind = Literal["count", "colour", "shape", "where", "place", "exists", "caption", "relation", "colour count"]

KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS = ("zero", "one", "two", "three", "four")
# How often each kind is asked: questions that look one thing up are learnt last, so they come twice as often.
MIX: dict[Kind, int] = {
    "count": 1,
    "colour": 2,
    "shape": 2,
    "where": 2,
    "place": 2,
    "exists": 2,
    "caption": 1,
    "relation": 2,
    "colour count": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one scene and the one answer that counts as right."""

    text: str
    answer: str
    kind: Kind


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
        *_ask_relations(scene, rng),
        *_ask_colour_counts(scene, rng),
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


def _ask_relations(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """How two things lie to each other, and whether they share their colour: half of the answers are yes."""
    for one, other in rng.sample(pairs := list(permutations(scene.things, 2)), min(3, len(pairs))):
        if one.column != other.column:
            answer = "yes" if one.column < other.column else "no"
            yield Question(text=f"is the {one.name} left of the {other.name}?", answer=answer, kind="relation")
        if one.row != other.row:
            answer = "yes" if one.row < other.row else "no"
            yield Question(text=f"is the {one.name} above the {other.name}?", answer=answer, kind="relation")
    unique = _with_unique([thing.shape for thing in scene.things], scene.things)
    by_answer = {one.colour == other.colour: (one, other) for one, other in permutations(unique, 2)}
    if True in by_answer or rng.random() < 0.25:
        for is_same, (one, other) in by_answer.items():
            text = f"are the {one.shape} and the {other.shape} the same colour?"
            yield Question(text=text, answer="yes" if is_same else "no", kind="relation")


def _ask_colour_counts(scene: Scene, rng: random.Random) -> Iterator[Question]:
    counts = Counter(thing.colour for thing in scene.things)
    absent = rng.choice([colour for colour in COLOURS if colour not in counts])
    for colour in (*counts, absent):
        text = rng.choice(("how many {} objects are there?", "how many {} things do you see?"))
        yield Question(text=text.format(colour), answer=NUMBERS[counts[colour]], kind="colour count")


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
