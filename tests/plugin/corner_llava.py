"""A model family from outside: LLaVA under a name that nobody knows. Registered when `register` is called."""

from transformers import AutoConfig, LlavaConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from star_batch.models import register_family
from star_batch.models.llava import Llava


class CornerConfig(LlavaConfig):  # type: ignore[misc]
    """What `AutoConfig` makes of the name."""

    model_type = "corner_llava"


class CornerLlava(Llava):
    """As LLaVA in all but the name."""


def register() -> None:
    AutoConfig.register("corner_llava", CornerConfig)
    register_checkpoint_conversion_mapping("corner_llava", get_checkpoint_conversion_mapping("llava"))
    register_family("corner_llava", CornerLlava)
