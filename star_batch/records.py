"""A record in, an answer out, and the one Arrow schema of the answers. Knows no model and no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from star_batch.errors import RecordError


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as a checkpoint's preprocessor left it: what travels from the CPU to the engine.

    `views [V, height, width, 3]` uint8: the image resized, or for some checkpoints an overview and tiles.
    `size`: (height, width) of the image that they were made of.
    """

    views: NDArray[np.uint8]
    size: tuple[int, int]


ImageSource: TypeAlias = bytes | str | PathLike[str] | Image.Image | Picture
FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Record:
    """One question about one image, or about several.

    `image` is encoded bytes, a path, a PIL image, or a picture that a preprocessor has made; or a list of these.
    `prompt` is the user's words, rendered with the checkpoint's chat template; with `raw` it is the
    whole text, with the checkpoint's image token where each image goes. `system` goes before them, where the chat
    template has it.
    `max_new_tokens`, `temperature`, `top_p` and `seed` override the job's, `stop` adds to it; no stop token is taken
    before `min_new_tokens`.
    With `choices` the answer is always one of them; with `with_kept` it says which visual tokens were kept.
    """

    id: str
    image: ImageSource | Sequence[ImageSource] | None
    prompt: str | None
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    choices: tuple[str, ...] | None = None
    stop: tuple[str, ...] = ()
    raw: bool = False
    system: str | None = None
    with_kept: bool = False
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    @property
    def images(self) -> tuple[ImageSource | None, ...]:
        """Its images in order, one or more."""
        return tuple(self.image) if isinstance(self.image, list | tuple) else (self.image,)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds that a row spent from submission to its answer, by what it was waiting for."""

    waiting: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0

    @property
    def total(self) -> float:
        return self.waiting + self.vision + self.prefill + self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one record: a text, or an error with its kind.

    `num_visual` visual tokens were offered and `num_kept` kept, one number per layer group;
    `kept` holds their indices, rising through all images, if the record asked for them.
    `num_prompt` counts the text tokens of the prompt, `num_output` the tokens generated.
    `label` is the choice taken, the likeliest; `label_probabilities` of all choices add up to one, `label_margin` is
    how far the choice taken is above the next. How they are counted: `engine/choices.py`.
    """

    id: str
    text: str | None = None
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_kind: str | None = None
    label: str | None = None
    label_probability: float | None = None
    label_margin: float | None = None
    label_probabilities: Mapping[str, float] | None = None
    num_visual: int | None = None
    num_kept: tuple[int, ...] | None = None
    kept: tuple[tuple[int, ...], ...] | None = None
    num_prompt: int | None = None
    num_output: int | None = None
    times: Times = field(default_factory=Times)

    @classmethod
    def failed(cls, id: str, error: RecordError) -> "Answer":
        return cls(id=id, error=str(error), error_kind=error.kind)


ANSWER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question_name", pa.string()),
        pa.field("answer", pa.large_string()),
        pa.field("error", pa.large_string()),
        pa.field("error_type", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("label", pa.string()),
        pa.field("label_probability", pa.float64()),
        pa.field("label_margin", pa.float64()),
        # Not a map: Hugging Face's datasets have none.
        pa.field("label_probabilities", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
        pa.field("num_visual", pa.int32()),
        pa.field("num_kept", pa.list_(pa.int32())),
        pa.field("num_prompt", pa.int32()),
        pa.field("num_output", pa.int32()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("seconds", pa.float64()),
        pa.field("reference", pa.large_string()),
        pa.field("is_correct", pa.bool_()),
        pa.field("model", pa.string()),
        pa.field("fingerprint", pa.string()),
    ]
)
"""Columns of the answers, in order; carried input columns (`keep_columns`) follow them."""


def to_table(
    answers: Sequence[Answer],
    *,
    model: str,
    fingerprint: str,
    references: Sequence[str | None] | None = None,
    questions: Sequence[str | None] | None = None,
    with_token_ids: bool = False,
) -> pa.Table:
    """Answers as a table of `ANSWER_SCHEMA`; `references` (one per answer, or None) fill `is_correct`.

    `questions` are the names of the questions that the answers answer, where there are several.
    """
    nothing = [None] * len(answers)
    given = references if references is not None else nothing
    names = questions if questions is not None else nothing
    rows = [
        _to_row(answer, reference, with_token_ids)
        | {"question_name": question, "model": model, "fingerprint": fingerprint}
        for answer, reference, question in zip(answers, given, names, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def _to_row(answer: Answer, reference: str | None, with_token_ids: bool) -> dict[str, object]:
    is_answered = answer.error is None
    return {
        "id": answer.id,
        "answer": answer.text,
        "error": answer.error,
        "error_type": answer.error_kind,
        "finish_reason": answer.finish_reason,
        "label": answer.label,
        "label_probability": answer.label_probability,
        "label_margin": answer.label_margin,
        "label_probabilities": _pairs(answer.label_probabilities),
        "num_visual": answer.num_visual,
        "num_kept": list(answer.num_kept) if answer.num_kept is not None else None,
        "num_prompt": answer.num_prompt,
        "num_output": answer.num_output,
        "token_ids": list(answer.token_ids) if with_token_ids and is_answered else None,
        "seconds": answer.times.total if is_answered else None,
        "reference": reference,
        "is_correct": matches(answer.text, reference) if reference is not None else None,
    }


def _pairs(probabilities: Mapping[str, float] | None) -> list[dict[str, object]] | None:
    if probabilities is None:
        return None
    return [{"label": label, "probability": probability} for label, probability in probabilities.items()]


def matches(text: str | None, reference: str) -> bool:
    """Exact match after trimming and case folding; a failed row matches nothing."""
    return text is not None and text.strip().casefold() == reference.strip().casefold()
