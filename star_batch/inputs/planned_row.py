"""One planned row on its way: its picture, its words and what it says about decoding, or why it cannot be answered.

Whatever is wrong with it is a `RecordError` and stays there. Knows no Ray and no model.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from star_batch import images
from star_batch.config import Input, Question
from star_batch.errors import (
    ConfigError,
    ImageMissing,
    ImageTooLarge,
    ImageUnreadable,
    PromptMissing,
    RecordError,
    RequestRefused,
    ValueInvalid,
)
from star_batch.inputs.fetch import Fetched
from star_batch.inputs.pieces import ID_COLUMN, PROBLEM_COLUMN, QUESTION_COLUMN
from star_batch.inputs.prompts import Template, is_missing
from star_batch.options import Decoding
from star_batch.records import Picture
from star_batch.wording import quoted

_PROBLEMS = {error.kind: error for error in (ImageMissing, ImageTooLarge, ImageUnreadable, ValueInvalid)}
"""What a format may know of a row before it is prepared."""


class PictureMaker(Protocol):
    """What this stage needs of a checkpoint; see `models.Preprocessor`."""

    def picture(self, image: Image.Image, size: tuple[int, int] | None = None) -> Picture: ...

    def shrink(self, size: tuple[int, int]) -> int: ...


class PreparedPicture:
    """An image on its way to a picture; it goes there once, for the first of its rows that gets so far."""

    def __init__(self, fetched: Fetched, input: Input, preprocessor: PictureMaker) -> None:
        self._fetched = fetched
        self._input = input
        self._preprocessor = preprocessor
        self._value: dict[str, object] = {}
        self._error = fetched.error
        self._seconds = fetched.seconds

    def value(self) -> dict[str, object]:
        """Of type `PICTURE`.

        Raises:
            RecordError: the image cannot be had or read.
        """
        try:
            self._value = self._value or (self._decode() if self._error is None else {})
        except RecordError as error:
            self._error = error
        if self._error is not None:
            raise self._error
        return self._value

    def fetch_seconds(self) -> float:
        """What fetching took, told once."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _decode(self) -> dict[str, object]:
        if not self._fetched.data:
            raise ImageMissing("no image")
        picture = self._picture(self._fetched.data)
        return {"pixels": picture.views.tobytes(), "shape": picture.views.shape, "size": picture.size}

    def _picture(self, data: bytes) -> Picture:
        most, quote = self._input.max_image_pixels, self._fetched.may_quote
        if self._input.decode == "exact":
            return self._preprocessor.picture(images.decode(data, max_pixels=most, quote=quote))
        image, size = images.decode_smaller(data, self._preprocessor.shrink, max_pixels=most, quote=quote)
        return self._preprocessor.picture(image, size)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One row on its way; `values` are its columns but the images, `questions` and their `templates` go by name."""

    input: Input
    questions: Mapping[str | None, Question]
    templates: Mapping[str | None, Template]
    values: Mapping[str, Any]
    pictures: Sequence[PreparedPicture]

    def prepare(self) -> dict[str, object]:
        started = time.perf_counter()
        row = {
            "id": self.values[ID_COLUMN],
            "question_name": self._name,
            "reference": self._reference(),
            "fetch_seconds": sum(picture.fetch_seconds() for picture in self.pictures),
        }
        try:
            self._check_readable()
            self._check_wanted()
            row |= self._words() | {"pictures": self._shown()}
        except RecordError as error:
            row |= {"error": str(error), "error_type": error.kind}
        return row | {"decode_seconds": time.perf_counter() - started}

    def _shown(self) -> list[dict[str, object]]:
        if not self.pictures:
            raise ImageMissing("no image")
        return [picture.value() for picture in self.pictures]

    @property
    def _name(self) -> str | None:
        """Which of several questions it asks."""
        return self.values.get(QUESTION_COLUMN)

    @property
    def _question(self) -> Question:
        return self.questions[self._name]

    def _check_readable(self) -> None:
        problem = self.values.get(PROBLEM_COLUMN)
        if problem is not None:
            raise _PROBLEMS[problem["kind"]](problem["why"])

    def _check_wanted(self) -> None:
        column = self.input.refused_column
        if column is not None and self.values[column] is not None:
            raise RequestRefused(self.values[column])

    def _words(self) -> dict[str, object]:
        self._check_id()
        return {"prompt": self._prompt(), "choices": self._choices()} | self._decoding() | self._max_new_tokens()

    def _check_id(self) -> None:
        column = self.input.id_column
        if column is not None and self.values[column] is None:
            raise ValueInvalid(f"column {quoted(column)} is null; the row was given an id of its own")

    def _prompt(self) -> str:
        column = self.input.prompt_column
        prompt = self.templates[self._name].render(self.values) if column is None else self.values[column]
        if prompt is None or not prompt.strip():
            raise PromptMissing("no prompt")
        return str(prompt)

    def _max_new_tokens(self) -> dict[str, object]:
        column = self.input.max_new_tokens_column
        if column is None:
            return {}
        value = self.values[column]
        if value is None or not 0 < value < 2**31:
            raise ValueInvalid(f"column {quoted(column)}: {quoted(value)} is not a number of tokens")
        return {"max_new_tokens": value}

    def _decoding(self) -> dict[str, object]:
        """What the row itself says about decoding, checked."""
        column = self.input.decoding_column
        given = (self.values[column] or {}) if column is not None else {}
        chosen = {name: value for name, value in given.items() if not is_missing(value)}
        try:
            Decoding(**chosen)
        except ConfigError as error:
            raise ValueInvalid(f"column {quoted(column)}: {error}") from None
        if chosen.get("max_new_tokens", 0) >= 2**31:
            raise ValueInvalid(
                f"column {quoted(column)}: max_new_tokens={chosen['max_new_tokens']} is more than any model has"
            )
        return chosen

    def _choices(self) -> list[str] | None:
        column = self.input.choices_column
        if column is None:
            choices = self._question.choices
            return list(choices) if choices is not None else None
        value = self.values[column]
        if not value or any(choice is None or not choice for choice in value):
            raise ValueInvalid(f"column {quoted(column)}: no choices, or an empty one")
        return list(value)

    def _reference(self) -> str | None:
        column = self._question.reference_column
        value = self.values[column] if column is not None else None
        return str(value) if not is_missing(value) else None
