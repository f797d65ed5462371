"""One line of OpenAI's Batch input: a chat completion about one image, or the reason why it is refused.

What is asked for and cannot be had is refused, never ignored; what says nothing about the answer is ignored. Words of
the system and the developer go before the user's. Knows no file.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from star_batch.data_uri import decode_data_uri, is_data_uri
from star_batch.openai.lines import MOST_BYTES, is_dense
from star_batch.wording import printable

COLUMNS = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("image", pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])),
        pa.field("prompt", pa.large_string()),
        pa.field(
            "decoding",
            pa.struct(
                [
                    ("max_new_tokens", pa.int64()),
                    ("temperature", pa.float64()),
                    ("top_p", pa.float64()),
                    ("seed", pa.int64()),
                    ("stop", pa.list_(pa.string())),
                ]
            ),
        ),
        pa.field("refused", pa.large_string()),
    ]
)
"""A request as a row; `refused` is the reason, or null."""

_MOST_TOKENS = 2**31 - 1
_LONGEST_NAME = 2048
_NAME = re.compile(r'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')
"""How a line begins that names its request first, as most do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_asks_for_nothing(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class _Text(_Part):
    type: Literal["text"]
    text: str


class _ImageURL(_Part):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # images have one size here


class _Image(_Part):
    type: Literal["image_url"]
    image_url: _ImageURL


class _System(_Part):
    role: Literal["system", "developer"]
    content: str | list[_Text]
    name: str | None = None


class _User(_Part):
    role: Literal["user"]
    content: str | list[Annotated[_Text | _Image, Field(discriminator="type")]]
    name: str | None = None


class _Format(_Part):
    type: Literal["text"]


_Nought = Annotated[float, Field(ge=0.0, le=0.0)]


class _Body(_Part):
    model: str | None = None  # the job's model answers, and its name is in the response
    messages: list[Annotated[_System | _User, Field(discriminator="role")]]
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    # As they are by default they ask for nothing.
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    response_format: _Format | None = None
    frequency_penalty: _Nought | None = None
    presence_penalty: _Nought | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Literal[0] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    # About accounts and caches, not about answers.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    @model_validator(mode="after")
    def _one_question_about_one_image(self) -> "_Body":
        if sum(message.role == "user" for message in self.messages) != 1:
            raise ValueError("give one message of the user; conversations are not supported")
        if len(self.images) != 1:
            raise ValueError(f"{len(self.images)} images; give one image_url")
        return self

    @property
    def images(self) -> list[str]:
        return [part.image_url.url for message in self.messages for part in message.content if isinstance(part, _Image)]

    @property
    def prompt(self) -> str:
        ordered = sorted(self.messages, key=lambda message: message.role == "user")
        return "\n".join(text for message in ordered for text in _texts(message.content))

    @property
    def decoding(self) -> dict[str, Any]:
        most = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return {
            "max_new_tokens": most,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed % 2**63 if self.seed is not None else None,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
        }


class _Request(_Part):
    custom_id: str = Field(min_length=1, max_length=_LONGEST_NAME)
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: _Body


def to_row(line: bytes) -> dict[str, Any]:
    """A row of `COLUMNS` for any line whatever."""
    try:
        _check_size(line)
        request = _Request.model_validate_json(line, strict=True)
        _check_keys(line)
        image = _image(request.body.images[0])
    except ValidationError as error:
        return _refused(line, _explain(error))
    except ValueError as error:
        return _refused(line, str(error))
    return {
        "custom_id": request.custom_id,
        "image": image,
        "prompt": request.body.prompt,
        "decoding": request.body.decoding,
    }


def _check_size(line: bytes) -> None:
    if len(line) > MOST_BYTES:
        raise ValueError(f"the request has more than {MOST_BYTES:,} bytes; give a smaller image, or its URL")
    if is_dense(line):
        raise ValueError("the request holds far too many values")


def _check_keys(line: bytes) -> None:
    """Of two that are called the same, nobody knows which was meant."""
    json.loads(line, object_pairs_hook=_distinct, parse_int=float)


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{printable(repeated)}: stands twice in one object")


def _texts(content: str | list[Any]) -> list[str]:
    return [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, _Text)]


def _image(url: str) -> dict[str, bytes | str]:
    if is_data_uri(url):
        try:
            return {"bytes": decode_data_uri(url)}
        except ValueError as error:
            raise ValueError(f"body.messages: {error}") from None
    if "://" not in url:
        raise ValueError("body.messages: the image_url is neither a URL nor a data URI")
    return {"path": url}


def _refused(line: bytes, reason: str) -> dict[str, Any]:
    return {"custom_id": _custom_id(line), "refused": reason}


def _custom_id(line: bytes) -> str | None:
    """What a broken request is called, if that can be told."""
    name = _parsed_name(line) or _first_name(line)
    return name if isinstance(name, str) and _is_writable(name) else None


def _parsed_name(line: bytes) -> Any:
    if len(line) > MOST_BYTES or is_dense(line):
        return None
    try:
        # Whatever is wrong elsewhere in the line: other bytes than UTF-8, or something behind the request.
        found, _ = json.JSONDecoder(parse_int=float).raw_decode(line.decode("utf-8", "surrogateescape").lstrip())
    except (ValueError, RecursionError):
        return None
    return found.get("custom_id") if isinstance(found, Mapping) else None


def _first_name(line: bytes) -> Any:
    found = _NAME.match(line[: 8 * _LONGEST_NAME].decode("utf-8", "surrogateescape"))
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None


def _is_writable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(name) <= _LONGEST_NAME


def _explain(error: ValidationError) -> str:
    """One mistake, by its key: the deepest, as those above it may only say that no other form fits either."""
    mistake = max(error.errors(include_url=False, include_input=False), key=lambda found: len(found["loc"]))
    key = printable(".".join(str(part) for part in mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        return f"{key}: not supported"
    said = printable(mistake["msg"].removeprefix("Value error, "))
    return f"{key}: {said}" if key else said
