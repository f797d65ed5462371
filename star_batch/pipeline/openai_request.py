"""One line of OpenAI's Batch input: a chat completion about one image, or the reason why it is refused.

What is asked for and cannot be had is refused, never ignored; what says nothing about the answer is ignored. Words of
the system and the developer go before the user's. Knows no file.
"""

import base64
import binascii
import json
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    # About accounts and caches, not about answers.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

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
    custom_id: str = Field(min_length=1)
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: _Body


def to_row(line: bytes) -> dict[str, Any]:
    """A row of `COLUMNS` for any line whatever."""
    try:
        request = _Request.model_validate_json(line, strict=True)
        image = _image(request.body.images[0])
    except ValidationError as error:
        return _refused(line, _explain(error))
    except ValueError as error:
        return _refused(line, f"body.messages: {error}")
    return {
        "custom_id": request.custom_id,
        "image": image,
        "prompt": request.body.prompt,
        "decoding": request.body.decoding,
    }


def _texts(content: str | list[Any]) -> list[str]:
    return [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, _Text)]


def _image(url: str) -> dict[str, bytes | str]:
    if not url.startswith("data:"):
        if "://" not in url:
            raise ValueError("the image_url is neither a URL nor a data URI")
        return {"path": url}
    head, comma, data = url.partition(",")
    if not comma:
        raise ValueError("the data URI has no data")
    try:
        return {"bytes": base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote_to_bytes(data)}
    except (binascii.Error, ValueError):
        raise ValueError("the data URI is not valid base64") from None


def _refused(line: bytes, reason: str) -> dict[str, Any]:
    return {"custom_id": _custom_id(line), "refused": reason}


def _custom_id(line: bytes) -> str | None:
    """What a broken request is called, if that can be told."""
    try:
        name = json.loads(line)["custom_id"]
        name.encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return str(name) or None


def _explain(error: ValidationError) -> str:
    """One mistake, by its key: the deepest, as those above it may only say that no other form fits either."""
    mistake = max(error.errors(include_url=False, include_input=False), key=lambda found: len(found["loc"]))
    key = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"{key}: not supported"
    said = mistake["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said
