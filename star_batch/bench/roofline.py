"""What an answer costs by arithmetic alone: operations and bytes, and the images/s that a device's rates allow.

Stages are added up without overlap; causal attention counts half. Knows no sampling, no paging, no copy from
the host and no launch, so that a real engine stays below. Legend: `N` visual tokens, `B` rows that decode
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from star_batch.bench.rates import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Sizes of a model, and what follows from them. Bytes are per `itemsize` of a number.

    `views` of an image go through the tower, each with `vision_tokens`; a token that is kept enters the projector
    as `projector_width` numbers. `vision_mlp` is that of a tower with two matrices to its MLP.
    """

    views: int
    vision_layers: int
    vision_tokens: int
    vision_width: int
    vision_mlp: int
    patch_values: int
    projector_width: int
    layers: int
    width: int
    query_width: int
    kv_width: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, num_visual: int, views: int = 1) -> "Cost":
        """From the library's configuration; of the tower the layers that the features need."""
        text = config.text_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        has_merger = hasattr(config.vision_config, "spatial_merge_size")
        return cls(
            **(_merging_tower(config.vision_config, num_visual) if has_merger else _square_tower(config)),
            views=views,
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            query_width=text.num_attention_heads * head_dim,
            kv_width=text.num_key_value_heads * head_dim,
            mlp=text.intermediate_size,
            vocabulary=text.vocab_size,
        )

    @property
    def projector_parameters(self) -> int:
        return self.projector_width * self.width + self.width**2

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.width * (self.query_width + self.kv_width)
        return attention + 3 * self.width * self.mlp

    @property
    def linear_parameters(self) -> int:
        """Of the decoder and its head: what every decode step reads."""
        return self.layers * self.layer_parameters + self.width * self.vocabulary

    @property
    def token_flops(self) -> int:
        """Of the decoder layers' matrices, per token."""
        return 2 * self.layers * self.layer_parameters

    def vision_flops(self) -> float:
        """Per image."""
        tokens, width = self.vision_tokens, self.vision_width
        products = tokens * 2 * (4 * width**2 + 2 * width * self.vision_mlp)
        layer = products + 4 * tokens**2 * width
        return self.views * (2 * tokens * self.patch_values * width + self.vision_layers * layer)

    def projector_flops(self, num_tokens: int) -> float:
        return 2 * self.projector_parameters * num_tokens

    def prefill_flops(self, tokens_per_layer: Sequence[int], shared: float = 0.0) -> float:
        """Of the prompt but for its first `shared` tokens, and the head for its last."""
        layers = (
            (n - shared) * 2 * self.layer_parameters + 2 * (n**2 - shared**2) * self.query_width
            for n in tokens_per_layer
        )
        return sum(layers) + 2 * self.width * self.vocabulary

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """In all layers together."""
        return self.layers * 2 * self.kv_width * itemsize


def _square_tower(config: Any) -> dict[str, int]:
    """CLIP or SigLIP, as far as LLaVA's feature layer."""
    vision = config.vision_config
    return {
        "vision_layers": config.vision_feature_layer % (vision.num_hidden_layers + 1),
        "vision_tokens": (vision.image_size // vision.patch_size) ** 2
        + (config.vision_feature_select_strategy == "default"),
        "vision_width": vision.hidden_size,
        "vision_mlp": vision.intermediate_size,
        "patch_values": 3 * vision.patch_size**2,
        "projector_width": vision.hidden_size,
    }


def _merging_tower(vision: Any, num_visual: int) -> dict[str, int]:
    """Qwen's, where several patches make a token; windows are counted as if they were the whole image."""
    merged = vision.spatial_merge_size**2
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    is_gated = hasattr(vision, "intermediate_size")  # three matrices instead of two
    return {
        "vision_layers": vision.depth,
        "vision_tokens": num_visual * merged,
        "vision_width": width,
        "vision_mlp": vision.intermediate_size * 3 // 2 if is_gated else int(width * vision.mlp_ratio),
        "patch_values": 3 * vision.temporal_patch_size * vision.patch_size**2,
        "projector_width": merged * width,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The requests as the decoder sees them: for each its tokens (visual and text) layer by layer.

    `kept` visual tokens of an image are projected; the first `shared_tokens` of a request are run once for many, for
    nothing here; `rows` decode together; `itemsize` bytes per weight and `kv_itemsize` per number in the KV cache.
    """

    tokens_per_layer: Sequence[Sequence[int]]
    kept: int
    answer_tokens: int
    rows: int
    itemsize: int
    kv_itemsize: int
    shared_tokens: float = 0.0

    @property
    def mean_tokens(self) -> float:
        """Over requests and layers."""
        return fmean(fmean(request) for request in self.tokens_per_layer)


def kv_bytes_per_row(cost: Cost, job: Job) -> float:
    """At the end of an answer; its last token is never written."""
    return (job.mean_tokens + job.answer_tokens - 1) * cost.kv_bytes_per_token(job.kv_itemsize)


def seconds_per_image(cost: Cost, job: Job, rates: Rates) -> float:
    """At the device's full rates: vision, prefill, then one decode step for each further token."""
    prefill = fmean(cost.prefill_flops(request, job.shared_tokens) for request in job.tokens_per_layer)
    prompt = (cost.vision_flops() + cost.projector_flops(job.kept) + prefill) / rates.flops
    return prompt + (job.answer_tokens - 1) * decode_step_seconds(cost, job, rates) / job.rows


def decode_step_seconds(cost: Cost, job: Job, rates: Rates) -> float:
    """One token for every row, at the answers' mean context."""
    reads = cost.linear_parameters * job.itemsize / rates.bandwidth
    products = 2 * cost.linear_parameters * job.rows / rates.flops
    context = job.mean_tokens + job.answer_tokens / 2
    return max(reads, products) + job.rows * context * cost.kv_bytes_per_token(job.kv_itemsize) / rates.bandwidth
