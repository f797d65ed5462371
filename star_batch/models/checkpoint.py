"""Where a checkpoint is and how its parts are read: safetensors only, remote code only if asked for.

Knows no family: it reads the configuration that names one.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from star_batch.errors import ConfigError, ModelError
from star_batch.options import Dtype

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_IGNORED_SETTINGS = ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "bad_words_ids", "sequence_bias")

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A local directory, a hub id, or `demo`, the small model that comes with the package."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def source(self) -> str:
        """What transformers is given: a directory or a hub id."""
        return str(DEMO) if self.name == "demo" else self.name

    @property
    def is_local(self) -> bool:
        return os.path.isdir(self.source)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that every `from_pretrained` gets."""
        common = {"trust_remote_code": self.trust_remote_code, "local_files_only": self.is_local}
        return common if self.is_local else common | {"revision": self.revision}

    def config(self) -> PreTrainedConfig:
        """The checkpoint's configuration; reads no weights.

        Raises:
            ModelError: there is no such checkpoint, or its configuration cannot be read.
        """
        if not self.is_local and self.source.startswith((".", "/", "~")):
            raise ModelError(f"{self.name}: no such directory; give a checkpoint's directory, a hub id or 'demo'")
        if self.is_local and self.revision is not None:
            raise ModelError(f"{self.name}: revision={self.revision!r} belongs to a hub id, not to a directory")
        try:
            return AutoConfig.from_pretrained(self.source, **self.arguments)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.name}: its configuration cannot be read: {first_line(error)}") from error

    def stop_ids(self) -> frozenset[int]:
        """Tokens at which the library's own `generate` would stop; empty if the checkpoint names none."""
        try:
            settings = GenerationConfig.from_pretrained(self.source, **self.arguments)
        except OSError:  # an older checkpoint has no generation settings of its own
            config = self.config()
            eos = config.eos_token_id if config.eos_token_id is not None else config.text_config.eos_token_id
        else:
            _warn_of_ignored(self.name, settings)
            eos = settings.eos_token_id
        if eos is None:
            return frozenset()
        return frozenset([eos] if isinstance(eos, int) else eos)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars, which are a terminal's noise in every actor."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _warn_of_ignored(name: str, settings: GenerationConfig) -> None:
    """Settings that change the library's greedy answers and that the engine does not know."""
    found = {key: getattr(settings, key, None) for key in _IGNORED_SETTINGS}
    given = {key: value for key, value in found.items() if value not in (None, 0, 1.0)}
    if given:
        logger.warning("%s: its generation settings %s are not applied", name, given)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which for transformers says what happened."""
    return str(error).strip().partition("\n")[0]


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        ModelError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise ModelError(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ModelError(
            f"device {device!r}: torch {torch.__version__} sees {there} CUDA devices here; use cpu or auto"
        )
    return chosen


def choose_dtype(dtype: Dtype, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """`auto` is what the checkpoint was saved in; float16 becomes float32 on CPU, which has no kernels for it.

    Raises:
        ConfigError: no such dtype.
    """
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype={dtype!r} is not known; choose one of auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    named = (config.dtype, config.text_config.dtype)
    saved = next((dtype for dtype in named if isinstance(dtype, torch.dtype)), torch.float32)
    return torch.float32 if device.type == "cpu" and saved == torch.float16 else saved
