"""Where a checkpoint is and how its parts are read: safetensors only, remote code only if asked for.

Knows no family: it reads the configuration that names one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.quantizers import AutoHfQuantizer
from transformers.utils import logging as transformers_logging

from star_batch.errors import ConfigError, ModelError, StarBatchError
from star_batch.options import Dtype
from star_batch.plugins import load_plugins
from star_batch.wording import printable

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

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

    @property
    def shown(self) -> str:
        """Its name, as it may stand in a message."""
        return printable(self.name)

    def config(self) -> PreTrainedConfig:
        """The checkpoint's configuration; reads no weights.

        Raises:
            ModelError: there is no such checkpoint, its configuration cannot be read, or it tells that the weights
                cannot be loaded here.
        """
        self._check_place()
        with opening(self, "its configuration cannot be read"):
            values, _ = PreTrainedConfig.get_config_dict(self.source, **self.arguments)
            self._check_format(values)
            config = AutoConfig.from_pretrained(self.source, **self.arguments)
        self._check_quantised(values)
        return config

    def _check_place(self) -> None:
        if not self.is_local and self.source.startswith((".", "/", "~")):
            raise ModelError(f"{self.shown}: no such directory; give a checkpoint's directory, a hub id or 'demo'")
        if not self.is_local:
            return
        if self.revision is not None:
            raise ModelError(
                f"{self.shown}: revision={printable(self.revision)!r} belongs to a hub id, not to a directory"
            )
        folder = Path(self.source)
        if (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{self.shown}: holds an adapter (adapter_config.json), which is not applied; merge it into its model "
                "by peft's merge_and_unload(), save_pretrained() that, and give the new folder"
            )
        if not (folder / "config.json").exists():
            raise ModelError(f"{self.shown}: is no checkpoint: there is no config.json in it")

    def _check_format(self, values: dict[str, Any]) -> None:
        """What the library would take for something else, or for code that it should run."""
        architectures = values.get("architectures")
        named = [str(name) for name in architectures] if isinstance(architectures, list) else []
        if "mm_vision_tower" in values or any(name.startswith("Llava") and "CausalLM" in name for name in named):
            raise ModelError(
                f"{self.shown}: is in LLaVA's original format; take the converted checkpoint, such as "
                "llava-hf/llava-1.5-7b-hf for liuhaotian/llava-v1.5-7b"
            )
        model_type = values.get("model_type")
        if not isinstance(model_type, str) or not _is_known(model_type):
            brings = ", and the code that it brings (auto_map) is not run" if "auto_map" in values else ""
            raise ModelError(
                f"{self.shown}: model_type {printable(model_type, 80)!r} is not supported: "
                f"transformers has no class for it{brings}"
            )

    def _check_quantised(self, values: dict[str, Any]) -> None:
        """That what reads quantised weights is installed: the library would find out after minutes."""
        text = values.get("text_config")
        nested = text.get("quantization_config") if isinstance(text, dict) else None
        quantised = values.get("quantization_config") or nested
        if not quantised:
            return
        with opening(self, "its weights are quantised in a way that is not supported here"):
            quantiser = AutoHfQuantizer.from_config(dict(quantised), pre_quantized=True)
            try:
                quantiser.validate_environment(device_map=None)
            except ImportError:
                raise
            except Exception:  # such as no GPU: where the weights will be loaded there may be one
                return


def _is_known(model_type: str) -> bool:
    """To transformers, perhaps because a plugin says it what that is.

    Raises:
        PluginError: it is not, and a plugin that may bring it cannot be loaded.
    """
    failed = load_plugins() if model_type not in CONFIG_MAPPING else []
    if failed and model_type not in CONFIG_MAPPING:
        raise failed[0]
    return model_type in CONFIG_MAPPING


@contextmanager
def opening(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Inside, whatever the library raises is a ModelError: a checkpoint may be wrong in any way.

    Raises:
        ModelError: `NAME: what: why`.
    """
    try:
        yield
    except StarBatchError:
        raise
    except Exception as error:
        raise ModelError(f"{checkpoint.shown}: {what}: {first_line(error)}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and tables, which are a terminal's noise in every actor."""
    was_on, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if was_on:
            transformers_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which for transformers says what happened; it may quote a file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    usual = isinstance(error, OSError | ValueError | RuntimeError | ImportError) and text
    return printable(text if usual else f"{type(error).__name__}: {text}".removesuffix(": "))


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
    named = (getattr(part, "dtype", None) for part in (config, config.text_config))
    saved = next((dtype for dtype in named if isinstance(dtype, torch.dtype)), torch.float32)
    return torch.float32 if device.type == "cpu" and saved == torch.float16 else saved
