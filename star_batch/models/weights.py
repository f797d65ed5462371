"""The files that hold a checkpoint's weights, looked at before any is read; and the weights, once they are.

Safetensors only: other formats run code when they are read. Knows no family.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedConfig

from star_batch.errors import ModelError
from star_batch.models.checkpoint import Checkpoint, opening
from star_batch.wording import printable

logger = logging.getLogger(__name__)

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_REPEATED = (".layers.", ".blocks.")  # what a configuration may say too few of


def check_files(checkpoint: Checkpoint) -> None:
    """That a local checkpoint's weights are there and whole, as far as their headers tell.

    Raises:
        ModelError: files are missing, cut or broken, or hold pickled weights.
    """
    if not checkpoint.is_local:
        return
    folder = Path(checkpoint.source)
    with opening(checkpoint, "its weights cannot be read"):
        for name in _file_names(checkpoint, folder):
            with (
                opening(checkpoint, f"its weights cannot be read: {printable(name)}"),
                safe_open(folder / name, framework="pt"),
            ):
                pass


def check_size(checkpoint: Checkpoint, library: Any, config: PreTrainedConfig, attentions: Mapping[str, str]) -> None:
    """That a local checkpoint's files hold about as many numbers as its configuration describes.

    Where a configuration leaves something out, the library takes that of some large model, and makes room for it.

    Raises:
        ModelError: they hold less than half.
    """
    if not checkpoint.is_local or getattr(config, "quantization_config", None):
        return
    with opening(checkpoint, "its configuration does not make a model"), torch.device("meta"):
        model = library._from_config(deepcopy(config), attn_implementation=dict(attentions))
    wanted = sum(weight.numel() for weight in model.parameters())
    folder = Path(checkpoint.source)
    with opening(checkpoint, "its weights cannot be read"):
        held = sum(_num_numbers(folder / name) for name in _file_names(checkpoint, folder))
    if 2 * held < wanted:
        raise ModelError(
            f"{checkpoint.shown}: its configuration describes {wanted:,} weights, and its files hold {held:,}; "
            "something is missing in one of them"
        )


def _num_numbers(file: Path) -> int:
    with safe_open(file, framework="pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _file_names(checkpoint: Checkpoint, folder: Path) -> list[str]:
    if (folder / _WHOLE).exists():
        return [_WHOLE]
    if (folder / _INDEX).exists():
        named = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(named.values()))
        if missing := [name for name in names if not (folder / name).exists()]:
            shown = printable(missing[0])
            raise ModelError(
                f"{checkpoint.shown}: {len(missing)} of {len(names)} files of weights are missing: {shown}"
            )
        return names
    if any(True for pattern in _PICKLED for _ in folder.glob(pattern)):
        raise ModelError(
            f"{checkpoint.shown}: its weights cannot be read: they are pickled, which runs code when it is read; "
            "save them as safetensors, by save_pretrained() of transformers"
        )
    raise ModelError(f"{checkpoint.shown}: its weights cannot be read: there is no {_WHOLE} and no {_INDEX}")


def check_report(checkpoint: Checkpoint, report: Mapping[str, Iterable[Any]]) -> None:
    """That all weights of the model were in the files: the library makes up what is missing, and goes on.

    Raises:
        ModelError: some were missing, or of another shape, or there are more layers than the configuration says.
    """
    for what, key in (("are missing", "missing_keys"), ("have another shape", "mismatched_keys")):
        if names := sorted(map(str, report.get(key) or ())):
            raise ModelError(f"{checkpoint.shown}: {len(names)} weights {what}, such as {printable(names[0])}")
    unused = sorted(map(str, report.get("unexpected_keys") or ()))
    if beyond := [name for name in unused if any(part in name for part in _REPEATED)]:
        raise ModelError(
            f"{checkpoint.shown}: {len(beyond)} weights belong to layers that its configuration does not have, "
            f"such as {printable(beyond[0])}"
        )
    if unused:
        logger.warning("%s: %d weights are not used, such as %s", checkpoint.shown, len(unused), printable(unused[0]))


def check_finite(checkpoint: Checkpoint, model: nn.Module) -> None:
    """One pass over the weights, on their device.

    Raises:
        ModelError: NaN or infinity is among them, so every answer would be.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.dtype in _FLOATS]
    if not named:
        return
    is_finite = torch.stack([weight.detach().sum(dtype=torch.float32).isfinite() for _, weight in named])
    broken = [name for (name, _), good in zip(named, is_finite.tolist(), strict=True) if not good]
    if broken:
        raise ModelError(
            f"{checkpoint.shown}: {len(broken)} weights hold NaN or infinity, such as {printable(broken[0])}"
        )


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
