"""The section `input`: where the records are, which columns say what, and what rows may name. Reads no file."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from star_batch.config.defaults import MAX_IMAGE_PIXELS, RETRY_SECONDS
from star_batch.config.kinds import KINDS
from star_batch.config.section import Section
from star_batch.wording import quoted

ALL_COLUMNS = "*"
"""Among `keep_columns`: all that hold no images."""


def _distinct(choices: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if choices is not None and (len(set(choices)) < len(choices) or not all(map(str.strip, choices))):
        raise ValueError("give choices that differ and are not blank")
    return choices


class Question(Section):
    """What is asked, in the words of a template over the columns; `choices` make the answer one of them."""

    prompt: str
    choices: tuple[str, ...] | None = Field(default=None, min_length=1)
    reference_column: str | None = None

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _distinct(value)


class Fetch(Section):
    """Which images may be fetched from the web. Without this section none are.

    `hosts`: names as they stand in the URLs, `*.example.org` for all below one, `*` for any; `name:port` where the
    port is not the scheme's own. Each redirect has to meet the same conditions.
    `max_bytes` and `seconds` limit one image. `allow_private`: addresses that are not public, for hosts of your own.
    """

    hosts: tuple[str, ...] = Field(min_length=1)
    schemes: tuple[Literal["https", "http"], ...] = Field(default=("https",), min_length=1)
    max_bytes: int = Field(default=20_000_000, ge=1)
    seconds: float = Field(default=30.0, gt=0.0)
    max_redirects: int = Field(default=3, ge=0)
    allow_private: bool = False

    @field_validator("hosts")
    @classmethod
    def _only_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.fullmatch(r"(\*|(\*\.)?[\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?", host):
                raise ValueError(f"{quoted(host)} is no host: give a name such as images.example.org")
        return value


class Input(Section):
    """Where the records are and which columns say what.

    `path`: a file, a glob, a directory, or a list of them; local, `s3://`, `gs://`,
    or `hf://datasets/OWNER/NAME@REVISION/path` of the Hugging Face Hub.
    `kind`: the format, ours or a plugin's: `parquet`, `webdataset` (tar archives), `lines` (JSON lines, CSV, TSV) and
    `llava` (its JSON); with `arrow` these are Arrow's own files, as `save_to_disk` and Feather have them; with
    `images` the path is a folder of image files, and an image's id is its path below that; with `openai` it is files
    of OpenAI's Batch requests in JSON, packed or not, which say for themselves what is asked.
    `id_column`: None derives a stable id from the file's name and the row's place in it.
    `image_column` holds encoded bytes, or a path or URI, or a list of these: several images of one question.
    `image_roots`: folders whose files rows may name; None: the input's file system and object stores. Files below a
    folder given as `path` or below the folder of the row's own file are always open to them (real paths are compared);
    what is local never to rows from elsewhere, unless it is named here.
    `decode`: `fast` decodes a JPEG at a half, a quarter or an eighth of its sides where what is left is at least twice
    what the checkpoint wants; colours differ by a few of 255 levels from `exact`, and so may answers.
    `max_image_bytes`, `image_seconds`: how large one image may be, wherever it is, and how long one try to read a file
    or an object may take. What is larger or later becomes an error row. `fetch` has limits of its own.
    `fetch`: which images may come from the web.
    `prompt` is a template over the columns, such as `What colour is the {thing}?`; or name a `prompt_column`; or ask
    several `questions` about each image, a section or just the words under a name each: rows `<id>#<name>`.
    `system`: a system prompt for all rows, where the chat template has it; their computation on it is shared.
    `keep_columns` are carried into the answers; `*` stands for all but `image_column` and columns of bytes. One whose
    name the answers have themselves is carried with `keep_prefix` before it: `label` as `input_label`.
    `decoding_column` is a struct of any of `max_new_tokens, temperature, top_p, seed, stop`, which override the job's.
    `refused_column` holds the reason why a row is not to be answered; null answers it.
    `duplicates`: what to do about ids that stand in several rows: refuse the job, or answer the first row of each.
    `vanished`: what to do about answers to rows that are not in the input any more: refuse the job, or keep them.
    `storage_options` go to the file system (fsspec's words, such as `endpoint_url`); they are never logged.
    `retry_seconds`: how long a storage that is busy or cannot be reached is tried again.
    """

    path: str | tuple[str, ...]
    kind: str = "parquet"
    id_column: str | None = None
    image_column: str = "image"
    image_roots: tuple[str, ...] | None = None
    fetch: Fetch | None = None
    prompt_column: str | None = None
    prompt: str | None = None
    raw_prompt: bool = False
    system: str | None = None
    questions: dict[str, Question | str] | None = Field(default=None, min_length=1)
    max_new_tokens_column: str | None = None
    decoding_column: str | None = None
    refused_column: str | None = None
    choices_column: str | None = None
    choices: tuple[str, ...] | None = Field(default=None, min_length=1)
    reference_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    keep_prefix: str = Field(default="input_", min_length=1)
    limit: int | None = Field(default=None, ge=1)
    duplicates: Literal["refuse", "first"] = "refuse"
    vanished: Literal["refuse", "keep"] = "refuse"
    decode: Literal["exact", "fast"] = "exact"
    max_image_pixels: int = Field(default=100_000_000, ge=1, le=MAX_IMAGE_PIXELS)
    max_image_bytes: int = Field(default=67_108_864, ge=1)
    image_seconds: float = Field(default=120.0, gt=0.0)
    retry_seconds: float = Field(default=RETRY_SECONDS, ge=0.0)
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in KINDS:
            raise ValueError(f"{quoted(value)} is not known; choose one of {', '.join(KINDS)}")
        return value

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("is empty")
        return value

    @field_validator("system")
    @classmethod
    def _some_words(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty")
        return value

    @field_validator("keep_columns", mode="before")
    @classmethod
    def _all_columns(cls, value: Any) -> Any:
        value = [value] if value == ALL_COLUMNS else value
        return tuple(value) if isinstance(value, list) else value  # strict, from here on

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _distinct(value)

    @field_validator("questions")
    @classmethod
    def _plain_names(cls, value: dict[str, Question | str] | None) -> dict[str, Question | str] | None:
        for name in value or {}:
            if not name.strip() or "#" in name:
                raise ValueError(f"{quoted(name)} is no name for a question: it becomes the end of ids, after a #")
        return value

    @model_validator(mode="after")
    def _one_source_each(self) -> Self:
        if not KINDS[self.kind].asks:
            return self
        if sum(asked is not None for asked in (self.prompt, self.prompt_column, self.questions)) != 1:
            raise ValueError("give either a prompt (a template over columns) or a prompt_column, or several questions")
        if self.raw_prompt and self.system is not None:
            raise ValueError("raw_prompt is the whole text: write the system prompt into it")
        if self.choices is not None and self.choices_column is not None:
            raise ValueError("give either choices for all rows or a choices_column")
        for name in ("choices", "choices_column", "reference_column"):
            if self.questions is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to each of the questions: give it there")
        return self

    @model_validator(mode="after")
    def _what_the_kind_has(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in fields if getattr(self, name) != fields[name].default]
        columns = [name for name in given if name.endswith(("_column", "_columns"))]
        kind = KINDS[self.kind]
        if columns and not kind.has_columns:
            raise ValueError(f"{columns[0]} names a column, and input.kind {self.kind} has none")
        asked = [name for name in ("prompt", "raw_prompt", "system", "questions", "choices") if name in given]
        if asked and not kind.asks:
            raise ValueError(f"{asked[0]}: records of input.kind {self.kind} say for themselves what is asked")
        return self

    @property
    def asked(self) -> dict[str | None, Question]:
        """What is asked about each record, by name; a single question has none."""
        if self.questions is not None:
            return {
                name: question if isinstance(question, Question) else Question(prompt=question)
                for name, question in self.questions.items()
            }
        # A prompt from a column has no words here.
        return {None: Question(prompt=self.prompt or "", choices=self.choices, reference_column=self.reference_column)}

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path
