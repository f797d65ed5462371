"""A job as a user writes it: YAML and flags, checked whole before anything is loaded. Knows no Ray, no model.

Every mistake is named by its key, with what is allowed there. Values are taken as they are written: `true`
is no number and `7` no text. Storage options and the Pushgateway's URL may hold secrets and appear in no message.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from star_batch.errors import ConfigError
from star_batch.job_file import read_yaml
from star_batch.options import Decoding, Dtype, EngineOptions
from star_batch.pruning import Pruning, field_names
from star_batch.wording import printable, quoted

MAX_IMAGE_PIXELS = 178_956_970
"""What Pillow opens at most."""

RETRY_SECONDS = 300.0
"""Storages have bad minutes."""

_MAX_MISTAKES = 20


class _Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _distinct(choices: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if choices is not None and (len(set(choices)) < len(choices) or not all(map(str.strip, choices))):
        raise ValueError("give choices that differ and are not blank")
    return choices


class Question(_Section):
    """What is asked, in the words of a template over the columns; `choices` make the answer one of them."""

    prompt: str
    choices: tuple[str, ...] | None = Field(default=None, min_length=1)
    reference_column: str | None = None

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _distinct(value)


class Fetch(_Section):
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


class Input(_Section):
    """Where the records are and which columns say what.

    `path`: a Parquet file, a glob, a directory, or a list of them; local, `s3://`, `gs://`.
    `kind`: with `images` the path is a folder of image files, and an image's id is its path below that; with `openai`
    it is files of OpenAI's Batch requests in JSON, packed or not, which say for themselves what is asked.
    `id_column`: None derives a stable id from the file's name and the row's place in it.
    `image_column` holds encoded bytes, or a path or URI, or a list of these: several images of one question.
    `image_roots`: folders whose files rows may name; None: the input's file system and object stores. Files below a
    folder given as `path` or below the folder of the row's own file are always open to them (real paths are compared);
    what is local never to rows from elsewhere, unless it is named here.
    `max_image_bytes`, `image_seconds`: how large one image may be, wherever it is, and how long one try to read a file
    or an object may take. What is larger or later becomes an error row. `fetch` has limits of its own.
    `fetch`: which images may come from the web.
    `prompt` is a template over the columns, such as `What colour is the {thing}?`; or name a `prompt_column`; or ask
    several `questions` about each image, a section or just the words under a name each: rows `<id>#<name>`.
    `decoding_column` is a struct of any of `max_new_tokens, temperature, top_p, seed, stop`, which override the job's.
    `refused_column` holds the reason why a row is not to be answered; null answers it.
    `duplicates`: what to do about ids that stand in several rows: refuse the job, or answer the first row of each.
    `vanished`: what to do about answers to rows that are not in the input any more: refuse the job, or keep them.
    `storage_options` go to the file system (fsspec's words, such as `endpoint_url`); they are never logged.
    `retry_seconds`: how long a storage that is busy or cannot be reached is tried again.
    """

    path: str | tuple[str, ...]
    kind: Literal["parquet", "images", "openai"] = "parquet"
    id_column: str | None = None
    image_column: str = "image"
    image_roots: tuple[str, ...] | None = None
    fetch: Fetch | None = None
    prompt_column: str | None = None
    prompt: str | None = None
    raw_prompt: bool = False
    questions: dict[str, Question | str] | None = Field(default=None, min_length=1)
    max_new_tokens_column: str | None = None
    decoding_column: str | None = None
    refused_column: str | None = None
    choices_column: str | None = None
    choices: tuple[str, ...] | None = Field(default=None, min_length=1)
    reference_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    duplicates: Literal["refuse", "first"] = "refuse"
    vanished: Literal["refuse", "keep"] = "refuse"
    max_image_pixels: int = Field(default=100_000_000, ge=1, le=MAX_IMAGE_PIXELS)
    max_image_bytes: int = Field(default=67_108_864, ge=1)
    image_seconds: float = Field(default=120.0, gt=0.0)
    retry_seconds: float = Field(default=RETRY_SECONDS, ge=0.0)
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("is empty")
        return value

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
        if self.kind == "openai":
            return self
        if sum(asked is not None for asked in (self.prompt, self.prompt_column, self.questions)) != 1:
            raise ValueError("give either a prompt (a template over columns) or a prompt_column, or several questions")
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
        if self.kind != "parquet" and columns:
            raise ValueError(f"{columns[0]} names a column, and input.kind {self.kind} has none")
        asked = [name for name in ("prompt", "raw_prompt", "questions", "choices") if name in given]
        if self.kind == "openai" and asked:
            raise ValueError(f"{asked[0]}: OpenAI's requests say for themselves what is asked")
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


class Output(_Section):
    """Where the answers go. A file and its marker are a commit: all of its rows become visible, or none.

    `rows_per_file`, `seconds_per_file`: answers wait for each other until a file is full, but not where the engines
    would need longer than that to fill one.
    `retry_failed`: rows that failed in an earlier run are answered again.
    `samples`: of about so many rows the picture and the tokens kept are stored, for the report's gallery.
    `lease_seconds`: a run that was not heard of for so long may be succeeded by another.
    """

    path: str = Field(min_length=1)
    overwrite: bool = False
    retry_failed: bool = False
    lease_seconds: float = Field(default=60.0, ge=1.0, le=3600.0)
    token_ids: bool = False
    samples: int = Field(default=48, ge=0, le=1000)
    rows_per_file: int = Field(default=512, ge=1)
    seconds_per_file: float = Field(default=60.0, gt=0.0)
    retry_seconds: float = Field(default=RETRY_SECONDS, ge=0.0)
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.overwrite and self.retry_failed:
            raise ValueError("overwrite deletes what retry_failed would keep: give one of them")
        return self


class Model(_Section):
    """Which checkpoint: a local directory, a hub id, or `demo`. Ray chooses the accelerator of each actor.

    `device`: `cuda` asks for GPUs, on a cluster waits for them; `auto` takes those that are there, or else the CPU.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    dtype: Dtype = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


class Cluster(_Section):
    """What Ray gives the job.

    `address`: None joins the cluster of `RAY_ADDRESS`, as inside `ray job submit`, or else starts a local Ray.
    `actors`: engines, a number or `[min, max]`. `gpus_per_actor`: None means 1 on CUDA and 0 on CPU; below 1, engines
    share a GPU and each takes that part of its memory.
    `gpu_wait_seconds`: how long a job that asks for GPUs waits until a cluster's autoscaler has brought the first.
    `runtime_env`: what a cluster that is joined sets up for the job's processes, in Ray's words (`env_vars`, `uv`,
    `working_dir`), or a YAML file of it; values of `env_vars` are never shown.
    `windows`: calls that feed one engine at the same time, of `rows_per_window` rows each.
    """

    address: str | None = None
    actors: int | tuple[int, int] = 1
    gpus_per_actor: float | None = Field(default=None, ge=0.0)
    gpu_wait_seconds: float = Field(default=900.0, ge=0.0)
    runtime_env: dict[str, Any] | str | None = Field(default=None, repr=False)
    cpus_per_actor: float = Field(default=1.0, ge=0.0)
    threads_per_actor: int | None = Field(default=None, ge=1)
    windows: int = Field(default=4, ge=1)
    rows_per_window: int = Field(default=64, ge=1)

    @field_validator("actors")
    @classmethod
    def _actors(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        low, high = (value, value) if isinstance(value, int) else value
        if not 1 <= low <= high:
            raise ValueError("give 1 or more actors, or [min, max] with 1 <= min <= max")
        return value

    @field_validator("gpus_per_actor")
    @classmethod
    def _share_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1.0 and value != int(value):
            raise ValueError("give a share below 1.0 (0.5: two engines on each GPU), or whole GPUs")
        return value

    @field_validator("runtime_env")
    @classmethod
    def _read_runtime_env(cls, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
        env = (
            read_yaml(Path(value), "expected what Ray knows, such as env_vars: or uv:")
            if isinstance(value, str)
            else value
        )
        variables = (env or {}).get("env_vars") or {}
        if not isinstance(variables, dict):
            raise ValueError("env_vars: expected names with values")
        for name, given in variables.items():
            if not isinstance(given, str):
                raise ValueError(f"env_vars.{name}: expected text (put it in quotes)")
        return env

    @property
    def environment(self) -> dict[str, Any] | None:
        """`runtime_env` as Ray takes it."""
        return self.runtime_env if isinstance(self.runtime_env, dict) else None

    @property
    def actor_range(self) -> tuple[int, int]:
        return (self.actors, self.actors) if isinstance(self.actors, int) else self.actors


class Faults(_Section):
    """How much may go wrong before something gives up.

    `max_failed`: rows that may fail, a number or a share (0.05) of the rows, before the job stops; None is no limit.
    `max_attempts`: a row whose process died so often with it alone becomes an error row.
    `max_deaths_in_a_row`: an engine that dies so often with no row finished in between stops the job.
    `hang_seconds`: an engine that has rows and finishes no step for so long is started anew.
    """

    max_failed: int | float | None = Field(default=None, ge=0)
    max_attempts: int = Field(default=2, ge=1)
    max_deaths_in_a_row: int = Field(default=20, ge=1)
    hang_seconds: float = Field(default=600.0, gt=0.0)

    @field_validator("max_failed")
    @classmethod
    def _number_or_share(cls, value: int | float | None) -> int | float | None:
        if isinstance(value, float) and value >= 1.0:
            raise ValueError("give a number of rows (100) or a share below 1.0 (0.05)")
        return value


class Metrics(_Section):
    """What Prometheus gets from the driver. Each engine is exported by Ray, whatever stands here.

    `port`: while the job runs, its metrics are at `http://HOST:PORT/metrics`; 0 is nowhere. `host`: 0.0.0.0 lets
    other machines ask.
    `pushgateway`: where the numbers of the end go, under the name `job`. A user and a password in the URL are
    used and never shown.
    """

    port: int = Field(default=0, ge=0, le=65535)
    host: str = Field(default="127.0.0.1", min_length=1)
    pushgateway: str | None = Field(default=None, repr=False)
    job: str = Field(default="star_batch", min_length=1)

    @field_validator("pushgateway")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        # What is given may hold a password, so it is not quoted.
        try:
            url = urlsplit(value or "http://nowhere")
            is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ValueError("give a URL such as http://pushgateway:9091")
        return value


class JobConfig(_Section):
    """One batch job."""

    input: Input
    output: Output
    model: Model
    pruning: Pruning = Pruning()
    decoding: Decoding = Decoding()
    engine: EngineOptions = EngineOptions()
    cluster: Cluster = Cluster()
    faults: Faults = Faults()
    metrics: Metrics = Metrics()

    @property
    def gpu_share(self) -> float | None:
        """The part of a GPU's memory that is one engine's, where several share it."""
        gpus = self.cluster.gpus_per_actor
        return self.engine.memory_share or (gpus if gpus and gpus < 1.0 else None)

    @model_validator(mode="after")
    def _output_is_not_input(self) -> Self:
        if self.output.path.rstrip("/") in {path.rstrip("/") for path in self.input.paths}:
            raise ValueError("output.path is the input: the next run would read the answers as records")
        return self


FLAGS = {
    "input.path": "--input",
    "input.kind": "--kind",
    "output.path": "--output",
    "model.name": "--model",
    "model.revision": "--revision",
    "pruning.method": "--method",
    "pruning.keep": "--keep",
    "input.id_column": "--id-column",
    "input.image_column": "--image-column",
    "input.prompt_column": "--prompt-column",
    "input.prompt": "--prompt",
    "input.reference_column": "--reference-column",
    "decoding.max_new_tokens": "--max-new-tokens",
    "cluster.actors": "--actors",
    "model.device": "--device",
    "model.dtype": "--dtype",
    "input.limit": "--limit",
    "cluster.address": "--ray-address",
    "faults.max_failed": "--max-failed",
    "input.duplicates": "--duplicates",
    "metrics.port": "--metrics-port",
    "metrics.pushgateway": "--pushgateway",
    "output.retry_failed": "--retry-failed",
    "output.overwrite": "--overwrite",
}
"""The keys that the command line can set."""

# A section that is a plain string means this key of it.
_SHORT = {"model": "name", "output": "path"}
# Of two keys that exclude each other, the one given by a flag replaces the file's.
_RIVALS = {"input.prompt": "prompt_column", "input.prompt_column": "prompt"}


def load_config(file: str | Path | None, overrides: Mapping[str, Any]) -> JobConfig:
    """A job from a YAML file, from flags, or from both; a flag wins.

    `overrides` maps dotted keys (`pruning.keep`) to values; None means that the flag was not given. A
    `pruning.method` other than the file's starts the section afresh: only `keep` is taken from the file,
    as the other keys belong to a method.

    Raises:
        ConfigError: the file cannot be read, or it says something that is not allowed. One line per mistake.
    """
    values = _sections(read_yaml(Path(file))) if file is not None else {"input": {}, "output": {}, "model": {}}
    flags = {key: value for key, value in overrides.items() if value is not None}
    _change_method(values, flags.get("pruning.method"))
    for key, value in flags.items():
        _put(values, key, value)
    return parse_config(values, source=str(file) if file is not None else None)


def parse_config(values: Mapping[str, Any], source: str | None = None) -> JobConfig:
    """Checked values; `source` is the file's name, None stands for the command line.

    Raises:
        ConfigError: with each mistake named by its key.
    """
    # As JSON, because pydantic's strict reading takes a list for a tuple there.
    text = json.dumps(_sections(values), default=str)
    try:
        return JobConfig.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(*_explain(error, source)) from None


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms written out; a section without any key is a section that is not there."""
    return {
        key: {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value
        for key, value in values.items()
        if value is not None
    }


def _change_method(values: dict[str, Any], method: str | None) -> None:
    section = values.get("pruning")
    if method is not None and isinstance(section, dict) and section.get("method", "none") != method:
        carried = {"keep"} - ({"keep"} if method == "none" else set())
        values["pruning"] = {key: value for key, value in section.items() if key in carried}


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    name, field = key.split(".")
    section = values.setdefault(name, {})
    if isinstance(section, dict):
        section.pop(_RIVALS.get(key), None)
        section[field] = value


def _explain(error: ValidationError, source: str | None) -> Iterator[str]:
    mistakes = error.errors(include_url=False)
    # Alternatives of one key (a number or a share) arrive as one mistake each.
    by_key = groupby(_without_rivals(mistakes), key=lambda mistake: _key(mistake["loc"]))
    lines = [f"  {_explain_key(loc, list(group), is_flag=source is None)}" for loc, group in by_key]
    yield f"{printable(source or 'on the command line')}:"
    yield from lines[:_MAX_MISTAKES]
    if len(lines) > _MAX_MISTAKES:
        yield f"  and {len(lines) - _MAX_MISTAKES:,} more"


_NESTED: dict[tuple[str, ...], type[BaseModel]] = {("input", "fetch"): Fetch, ("input", "questions"): Question}
"""Sections within a section, whose keys are named in full."""


def _key(loc: Sequence[int | str]) -> tuple[str, ...]:
    names = tuple(map(str, loc))
    if names[:2] not in _NESTED:
        return names[:2]
    return tuple(name for name in names if name not in ("Question", "str") and not name.isdigit())[:4]


def _without_rivals(mistakes: Sequence[Any]) -> Sequence[Any]:
    """Without that a section is no text, where something within that section is wrong."""
    inside = {mistake["loc"][:3] for mistake in mistakes if "Question" in mistake["loc"][3:-1]}
    return [mistake for mistake in mistakes if mistake["loc"][3:] != ("str",) or mistake["loc"][:3] not in inside]


def _explain_key(loc: tuple[str, ...], mistakes: list[Any], is_flag: bool) -> str:
    key = printable(".".join(loc))
    what = _what(loc, mistakes)
    if not key:
        return what
    if re.match(r"\w+=", what):  # options name their own field
        return f"{key}.{what}"
    flag = FLAGS.get(key) if is_flag else None
    return f"{key} ({flag}): {what}" if flag else f"{key}: {what}"


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
    "dataclass_type": "a section with keys",
}


def _what(loc: tuple[str, ...], mistakes: list[Any]) -> str:
    kind, context = mistakes[0]["type"], mistakes[0].get("ctx", {})
    value = _show(loc, mistakes[0]["input"])
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(loc)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return printable(context["error"])
    if kind == "literal_error":
        return f"expected {context['expected']}, not {value}"
    if kind == "greater_than_equal":
        return f"expected {context['ge']} or more, not {value}"
    if kind == "greater_than":
        return f"expected more than {context['gt']}, not {value}"
    if kind == "less_than_equal":
        return f"expected {context['le']} or less, not {value}"
    if kind in ("string_too_short", "too_short"):
        return "is empty"
    expected = dict.fromkeys(_KINDS.get(mistake["type"], mistake["msg"]) for mistake in mistakes)
    quotes = " (put it in quotes)" if set(expected) == {"text"} else ""
    return f"expected {' or '.join(expected)}, not {value}{quotes}"


def _show(loc: tuple[str, ...], value: object) -> str:
    if {"storage_options", "pushgateway", "runtime_env"} & set(loc) or isinstance(value, dict):
        return "what is given"
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _unknown(loc: tuple[str, ...]) -> str:
    *parents, name = loc
    known = _known_keys()
    section = _NESTED.get(loc[:2]) if len(loc) > 2 else None
    here = list(_names(section)) if section is not None else known[parents[0]] if parents else list(known)
    near = difflib.get_close_matches(name, here, n=2, cutoff=0.7)
    elsewhere = [f"{section}.{name}" for section, keys in known.items() if name in keys]
    if elsewhere or near:
        return f"unknown key; did you mean {' or '.join(elsewhere or near)}?"
    return f"unknown key; known: {', '.join(here)}"


def _known_keys() -> dict[str, list[str]]:
    return {name: list(_names(field.annotation)) for name, field in JobConfig.model_fields.items()}


def _names(section: Any) -> Iterable[str]:
    if section is Pruning:
        return field_names()
    return section.model_fields if issubclass(section, BaseModel) else [field.name for field in fields(section)]
