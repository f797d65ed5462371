"""One request of lmms-eval as a record and its decoding. Knows neither lmms-eval nor an engine.

What a whole task asks for in vain, such as videos or beam search, is a `ConfigError` that names it: answers made
without it would be scored as if they had it. What is wrong with one document is a `RecordError`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from star_batch.errors import ConfigError, ImageUnreadable
from star_batch.models.marks import MARK
from star_batch.options import Decoding
from star_batch.records import Record
from star_batch.wording import quoted

Documents: TypeAlias = Mapping[str, Mapping[str, Any]]
"""`documents[task][split][number]`: a dataset that a task has loaded."""

Message: TypeAlias = Mapping[str, Any]

IGNORED = frozenset({"image_aspect_ratio"})
"""Options that tell LLaVA's own code how to prepare images; here the checkpoint's image processor alone says that."""

_HONOURED = ("max_new_tokens", "until", "do_sample", "temperature", "top_p", "repetition_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a task of kind `generate_until` asks about one document: `to_messages` makes chat messages of it."""

    task: str
    split: str
    number: int
    options: Mapping[str, Any]
    to_messages: Callable[[Any], Sequence[Message]]

    @classmethod
    def of_arguments(cls, arguments: tuple[Any, ...]) -> Self:
        """From an instance's arguments, as lmms-eval hands them to chat models."""
        _, to_messages, options, number, task, split = arguments
        return cls(task=task, split=split, number=number, options=options or {}, to_messages=to_messages)

    @property
    def id(self) -> str:
        return f"{self.task}/{self.split}/{self.number}"

    def decoding(self, max_new_tokens: int) -> Decoding:
        """Its options; `max_new_tokens` where it has none.

        Raises:
            ConfigError: an option is not supported or out of range.
        """
        given = {name: value for name, value in self.options.items() if value is not None and name not in IGNORED}
        if given.pop("num_beams", 1) != 1:
            raise ConfigError(f"{self.task}: num_beams={quoted(self.options['num_beams'])} is not supported; give 1")
        for name, value in given.items():
            if name not in _HONOURED and value:  # 0, false and "" ask for nothing
                honoured = ", ".join(_HONOURED)
                raise ConfigError(f"{self.task}: {name}={quoted(value)} is not supported; what is: {honoured}")
        try:
            return Decoding(
                max_new_tokens=given.get("max_new_tokens", max_new_tokens),
                stop=_stop(given.get("until") or ()),
                repetition_penalty=given.get("repetition_penalty"),
                **_sampling(given),
            )
        except ConfigError as error:
            raise ConfigError(f"{self.task}: {error}") from None

    def record(self, documents: Documents, id: str) -> Record:
        """Its document as a record, each image where the messages have it.

        Raises:
            ConfigError: the messages are not one of a user with text and images.
            ImageUnreadable: the document cannot be read.
        """
        try:
            messages = self.to_messages(documents[self.task][self.split][self.number])
        except (OSError, SyntaxError) as error:  # what Pillow makes of broken images
            raise ImageUnreadable(f"the task cannot read its document: {error}") from error
        parts = self._parts(messages)
        images = [part["url"] for part in parts if part["type"] == "image"]
        return Record(id=id, image=images or None, prompt=_prompt(parts))

    def _parts(self, messages: Sequence[Message]) -> list[Message]:
        """The content of the one message."""
        roles = [message["role"] for message in messages]
        if roles != ["user"]:
            raise ConfigError(f"{self.task}: messages of {quoted(roles)} are not supported; only one of the user is")
        content = messages[0]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        for part in parts:
            if part["type"] not in ("text", "image"):
                kind = quoted(part["type"])
                raise ConfigError(f"{self.task}: content of type {kind} is not supported; only text and images are")
        return parts


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy if `do_sample` is false or the temperature 0, as in transformers; `top_p` says nothing then."""
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    if temperature == 0 or given.get("do_sample") is False:
        return {}
    return {"temperature": temperature, "top_p": given.get("top_p", 1.0)}


def _stop(until: Any) -> tuple[str, ...]:
    return tuple(until) if isinstance(until, list | tuple) else (until,)


def _prompt(parts: Sequence[Message]) -> str:
    """The words with a mark for each image, unless they have marks themselves, as those of some benchmarks do."""
    is_marked = any(MARK in part["text"] for part in parts if part["type"] == "text")
    own_mark = "" if is_marked else MARK
    return "".join(part["text"] if part["type"] == "text" else own_mark for part in parts)
