"""What an adapter is made of, a `Family` by it: weights, and a text decoder with rotary positions. Knows no image."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from star_batch.errors import ModelError
from star_batch.models.base import Rotary
from star_batch.models.checkpoint import Checkpoint, opening, quiet_loading
from star_batch.models.image_processor import Normalisation
from star_batch.models.packing import pack_linears
from star_batch.models.weights import check_files, check_finite, check_report, check_size

# These rescale their tables by the longest position in the batch: an answer would depend on its neighbours.
_BATCH_DEPENDENT_ROTARY = ("dynamic", "longrope")


class Adapter:
    """The decoder's half of `VisionLanguageModel`; a family adds how it sees."""

    library: ClassVar[Any]
    """The class of transformers that reads the weights."""
    vision_attention: ClassVar[str]
    """The registered attention function of the vision tower."""
    num_axes = 1
    separator: Tensor | None = None

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        pack_linears(model)
        text = model.config.text_config
        self._decoder = model.model.language_model
        self._head = model.lm_head
        self.num_layers: int = text.num_hidden_layers
        self.num_kv_heads: int = text.num_key_value_heads
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.context_length = context_length(text)
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        """Refuses what this adapter would compute wrongly; reads no weights.

        Raises:
            ModelError: a part or setting that is not supported.
        """
        rotary = config.text_config.rope_parameters.get("rope_type", "default")
        if rotary in _BATCH_DEPENDENT_ROTARY:
            raise ModelError(f"rope_type={rotary!r} makes an answer depend on its batch and is not supported")

    @staticmethod
    def num_visual_of(config: PreTrainedConfig) -> int:
        """Visual tokens of an image, from the configuration alone; where images differ, of a typical one."""
        raise NotImplementedError

    @staticmethod
    def num_views_of(config: PreTrainedConfig) -> int:
        """Times that the tower runs for such an image."""
        return 1

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device,
        normalisation: Normalisation,
        attention: str,
    ) -> Self:
        """Reads the weights (safetensors). `attention` names the registered function of the decoder's layers.

        Raises:
            ModelError: the weights are missing, unreadable or not finite.
        """
        cls.check_weights(checkpoint, checkpoint.config())
        with opening(checkpoint, "its weights cannot be read"), quiet_loading():
            model, report = cls.library.from_pretrained(
                checkpoint.source,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, by name
                attn_implementation=cls.attentions(attention),
                **checkpoint.arguments,
            )
            check_report(checkpoint, report)
            model = model.eval().requires_grad_(False).to(device)
            check_finite(checkpoint, model)
            return cls(model, normalisation)

    @classmethod
    def check_weights(cls, checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
        """What a local checkpoint's files tell before any of them is read.

        Raises:
            ModelError: they are missing, broken, or too few for the configuration.
        """
        check_files(checkpoint)
        check_size(checkpoint, cls.library, config, cls.attentions("eager"))

    @classmethod
    def attentions(cls, decoder: str) -> dict[str, str]:
        """The attention function of each part, as the library wants to be told."""
        # The whole has no attention of its own; what its configuration names need not even be installed.
        return {"": "eager", "text_config": decoder, "vision_config": cls.vision_attention}

    def embed(self, token_ids: Tensor) -> Tensor:
        embeddings: Tensor = self._decoder.embed_tokens(token_ids)
        return embeddings

    def rotary(self, positions: Tensor) -> Rotary:
        reference = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self._decoder.rotary_emb(reference, positions)
        return cos, sin

    def attend(self, index: int, hidden: Tensor, rotary: Rotary, **attention: Any) -> Tensor:
        layer = self._decoder.layers[index]
        normed = layer.input_layernorm(hidden.unsqueeze(0))
        out, _ = layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None, **attention)
        attended: Tensor = hidden + out.squeeze(0)
        return attended

    def feed_forward(self, index: int, hidden: Tensor) -> Tensor:
        layer = self._decoder.layers[index]
        fed: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return fed

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(self._decoder.norm(hidden))
        return logits.float()


def context_length(text: PreTrainedConfig) -> int:
    """Positions that the decoder was made for; within a sliding window, attention is full attention."""
    window = getattr(text, "sliding_window", None)
    longest: int = text.max_position_embeddings
    return longest if window is None else min(longest, window)


def require_one_of(what: str, found: str, supported: tuple[str, ...]) -> None:
    """Raises:
    ModelError: what was found is not supported.
    """
    if found not in supported:
        raise ModelError(f"the {what} {found!r} is not supported; supported are {', '.join(supported)}")
