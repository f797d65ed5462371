"""Models compute: one adapter per family of transformers models. Knows no pruning and no batch policy.

A new family is one file with its adapter, a class made of `Adapter`, and one line: in `FAMILIES` for one of ours, or
`register_family(...)` in a plugin (`star_batch.plugins`) for one of yours.
"""

from transformers import PreTrainedConfig

from star_batch.errors import ModelError
from star_batch.models.adapter import Adapter
from star_batch.models.base import Family, ImageFeatures, ImageLayout, Rotary, VisionLanguageModel
from star_batch.models.checkpoint import Checkpoint, choose_device, choose_dtype, opening
from star_batch.models.generation import GenerationSettings, generation_of
from star_batch.models.llava import Llava
from star_batch.models.llava_next import LlavaNext
from star_batch.models.preprocessor import Preprocessor
from star_batch.models.qwen_vl import Qwen2_5VL, Qwen2VL
from star_batch.models.tokenizer import Prompt
from star_batch.plugins import Registry

FAMILIES: Registry[Family] = Registry(
    "model family",
    {
        "llava": Llava,
        "llava_next": LlavaNext,
        "qwen2_vl": Qwen2VL,
        "qwen2_5_vl": Qwen2_5VL,
    },
)
"""`model_type` of a checkpoint's configuration to its adapter."""


def register_family(model_type: str, family: Family) -> None:
    """Makes a family's adapter known; a `model_type` that is new to transformers is told to `AutoConfig`, too.

    Raises:
        ConfigError: the `model_type` has one.
    """
    FAMILIES.register(model_type, family)


def family_of(checkpoint: Checkpoint, config: PreTrainedConfig) -> Family:
    """The adapter for a checkpoint, after it has looked at the configuration.

    Raises:
        ModelError: the family, or something in this checkpoint of it, is not supported.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        supported = ", ".join(FAMILIES)
        message = f"{checkpoint.shown}: model_type {config.model_type!r} is not supported; supported: {supported}"
        raise ModelError(message)
    with opening(checkpoint, "its configuration is not complete"):
        family.check(config)
        # Asked for later too, in places that could not say which checkpoint it was.
        if family.num_visual_of(config) < 1 or family.num_views_of(config) < 1:
            raise ValueError("an image would have no tokens")
    return family


def check(checkpoint: Checkpoint) -> GenerationSettings:
    """Everything that can be told without reading weights; a minute of loading, and Ray, need not start in vain.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    config = checkpoint.config()
    family_of(checkpoint, config).check_weights(checkpoint, config)
    Preprocessor.from_checkpoint(checkpoint)
    return generation_of(checkpoint, config)


def load_preprocessor(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Preprocessor:
    """Tokenizer, chat template and image processor of a checkpoint, without its weights.

    Raises:
        ModelError: the checkpoint is missing or has no processor.
    """
    return Preprocessor.from_checkpoint(Checkpoint(name=name, revision=revision, trust_remote_code=trust_remote_code))


__all__ = [
    "FAMILIES",
    "Adapter",
    "Checkpoint",
    "Family",
    "GenerationSettings",
    "ImageFeatures",
    "ImageLayout",
    "Preprocessor",
    "Prompt",
    "Rotary",
    "VisionLanguageModel",
    "check",
    "choose_device",
    "choose_dtype",
    "family_of",
    "generation_of",
    "load_preprocessor",
    "register_family",
]
