"""Encodes a micro-batch of images and prunes them early: introduces the vision encoder to the plan's early stage.

Knows neither's inside, no prompt and no KV cache. Decides nothing: not which images go together.
"""

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from star_batch.engine.decode_graph import Capture, capture_cuda
from star_batch.engine.sequence import EncodedImage, SequenceImage
from star_batch.engine.stopwatch import Stopwatch
from star_batch.engine.upload import upload
from star_batch.engine.vision_graph import VisionGraphs
from star_batch.metrics import EngineStats
from star_batch.models import ImageFeatures, VisionLanguageModel
from star_batch.pruning import PruningPlan, VisualTokens, everything


class VisionRunner:
    """Pictures in, kept visual tokens out, at most `batch_size` images at once."""

    def __init__(
        self,
        model: VisionLanguageModel,
        plan: PruningPlan,
        stats: EngineStats,
        *,
        stopwatch: Stopwatch,
        batch_size: int,
    ) -> None:
        self.model = model
        self.batch_size = model.vision_batch(batch_size)
        self._plan = plan
        self._stats = stats
        self._stopwatch = stopwatch
        self._graphs = self._make_graphs(capture_cuda) if model.device.type == "cuda" else None

    def encode(self, images: Seq[SequenceImage]) -> list[EncodedImage]:
        """At most `batch_size` images, pruned early; only what is kept is projected.

        The encoder and the selection always see the same shape, so their rounding does not depend on company.
        """
        with self._stopwatch.stage("vision_seconds"):
            found = self._encode(images)
        with self._stopwatch.stage("select_seconds"):
            counts = self._counts(images, found)
            kept = self._select_early(images, found, counts)
        with self._stopwatch.stage("vision_seconds"):
            visual = self._project(found, kept)
            # One copy for all, and a copy on any device: a graph's results are written over.
            on_host = torch.cat(kept).cpu().split(list(map(len, kept)))
            encoded = list(map(EncodedImage, on_host, visual, counts))
            if found.places is not None:
                encoded = [self._with_separators(*pair, found.places) for pair in zip(images, encoded, strict=True)]
        self._stats.vision_batches += 1
        self._stats.vision_images += len(images)
        return encoded

    def _encode(self, images: Seq[SequenceImage]) -> ImageFeatures:
        if self._graphs is not None:
            return self._graphs.encode(self._views(images))
        return self.model.encode(self._views(images), [image.source.size for image in images])

    def _views(self, images: Seq[SequenceImage]) -> Tensor:
        views = [image.source.views for image in images]
        padding = [np.zeros_like(views[0])] * (self.batch_size - len(views))
        return self._put(torch.from_numpy(np.stack(views + padding)))

    def _counts(self, images: Seq[SequenceImage], found: ImageFeatures) -> list[tuple[int, ...]]:
        """Visual tokens of every image in each layer group."""
        pairs = zip(images, found.attention, strict=False)
        return [self._plan.counts_of(attention, image.layout.num_visual) for image, attention in pairs]

    def _select_early(
        self, images: Seq[SequenceImage], found: ImageFeatures, counts: Seq[tuple[int, ...]]
    ) -> list[Tensor]:
        """Indices `[K]` kept of every image's encoder tokens, padding left out."""
        if self._plan.budget is None:  # images of one shape have one budget: all at once
            if self._graphs is not None:
                return list(self._graphs.select(found))[: len(images)]
            return list(self._kept(self._tokens(found, images), counts[0][0]))[: len(images)]
        alone = [ImageFeatures(*(part[i : i + 1] for part in found[:2])) for i in range(len(images))]
        each = zip(alone, images, counts, strict=True)
        return [self._kept(self._tokens(one, [image]), count[0])[0] for one, image, count in each]

    def _tokens(self, found: ImageFeatures, images: Seq[SequenceImage]) -> VisualTokens:
        """What the early selection looks at; images that only fill the batch have nothing of a record."""
        padding = len(found.features) - len(images)
        seeds = (*(image.seed for image in images), *[0] * padding)
        if not self._plan.reads_prompt:
            return VisualTokens(found.attention, found.features, seeds)
        words = [*(image.words for image in images), *[()] * padding]
        return VisualTokens(found.attention, found.features, seeds, self._relevance(found.features, words))

    def _relevance(self, features: Tensor, words: Seq[tuple[int, ...]]) -> Tensor:
        """Mean cosine `[B, N]` of each projected token to the embeddings of its prompt's words."""
        projected = self.model.project(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        ids = self._put(torch.tensor([id for own in words for id in own], dtype=torch.int64))
        unit = F.normalize(self.model.embed(ids).double(), dim=-1).split(list(map(len, words)))
        mean = torch.stack([own.sum(0) / max(1, len(own)) for own in unit])
        cosines: Tensor = F.normalize(projected.double(), dim=-1) @ mean.unsqueeze(-1)
        return cosines.squeeze(-1)

    def _kept(self, tokens: VisualTokens, num_keep: int) -> Tensor:
        """Indices `[B, K]` kept of the encoder's tokens; a budget for separators too ends with the last of these."""
        num_images, num_tokens, _ = tokens.features.shape
        if self._plan.early is None or num_keep >= num_tokens:
            return everything(num_tokens, tokens.features.device).expand(num_images, -1)
        return self._plan.early(tokens, num_keep)

    def _project(self, found: ImageFeatures, kept: list[Tensor]) -> list[Tensor]:
        """Embeddings `[K, W]` of what is kept of every image."""
        if self._plan.budget is not None:
            return [self.model.project(image[places]) for image, places in zip(found.features, kept, strict=False)]
        places = torch.stack(kept)
        images = torch.arange(len(places), device=places.device).unsqueeze(1)
        survivors = found.features[images, places]
        padding = survivors[:1].expand(self.batch_size - len(survivors), -1, -1)
        whole = self.model.project(torch.cat([survivors, padding]).flatten(0, 1))
        return list(whole.split(places.shape[1])[: len(survivors)])

    def _with_separators(self, image: SequenceImage, encoded: EncodedImage, places: Tensor) -> EncodedImage:
        """Separators fill what the encoder's tokens leave of the budget, first ones first: they carry no picture."""
        assert self.model.separator is not None
        places = places.cpu()
        is_separator = torch.ones(image.layout.num_visual, dtype=torch.bool)
        is_separator[places] = False
        num_left = encoded.counts[0] - len(encoded.kept)
        both = torch.cat([places[encoded.kept], is_separator.nonzero().squeeze(1)[:num_left]])
        order = both.argsort()
        visual = torch.cat([encoded.visual, self.model.separator.expand(num_left, -1)])[self._put(order)]
        return EncodedImage(both[order], visual, encoded.counts)

    def _make_graphs(self, capture: Capture) -> VisionGraphs | None:
        """None where images differ in shape, in budget, or in more than their pixels."""
        has_one_shape = self.model.vision_batch(2) == 2
        is_shared = not self._plan.is_per_record and not self._plan.reads_prompt
        if not has_one_shape or self._plan.budget is not None or not is_shared:
            return None
        return VisionGraphs(
            lambda views: self.model.encode(views, ()),
            lambda found: self._kept(self._tokens(found, ()), self._plan.counts(found.features.shape[1])[0]),
            capture,
        )

    def _put(self, tensor: Tensor) -> Tensor:
        return upload(tensor, self.model.device)
