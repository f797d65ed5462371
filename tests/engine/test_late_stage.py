"""Pruning inside the language model, held against a reference that recomputes everything without a cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from star_batch import Engine, EngineOptions, Pruning, Record
from star_batch.engine.attention import PackedPrefill, Span
from star_batch.engine.finish import answer_of
from star_batch.engine.kv_cache import KVCache
from star_batch.engine.sequence import EncodedImage
from star_batch.engine.sequence import Sequence as EngineSequence
from star_batch.pruning import star
from tests.tiny import NUM_VISUAL, random_records

LAYERS = 6


class Reference:
    """STAR by the book: one sequence, the library's eager layers, explicit masks, no cache."""

    def __init__(self, checkpoint: str, *, layer: int, num_late: int, is_compact: bool) -> None:
        model = LlavaForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        self.model = model.eval()
        self.decoder = model.model.language_model
        self.layer, self.num_late, self.is_compact = layer, num_late, is_compact

    @torch.inference_mode()
    def generate(self, sequence: EngineSequence, image: EncodedImage, num_tokens: int) -> tuple[int, ...]:
        output: list[int] = []
        late = None
        for _ in range(num_tokens):
            logits, late = self._forward(sequence, image, output, late)
            output.append(int(logits.argmax()))
            if output[-1] == 2:
                break
        assert late is not None
        self.kept = (tuple(image.kept.tolist()), tuple(image.kept[late].tolist()))
        return tuple(output)

    def _forward(
        self, sequence: EngineSequence, image: EncodedImage, output: list[int], late: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        first, last = sequence.prompt.texts
        before, after = len(first), [*last, *output]
        visual = image.visual
        embed, kept = self.decoder.embed_tokens, image.kept
        hidden = torch.cat([embed(torch.tensor(first)), visual, embed(torch.tensor(after))])
        positions = torch.cat(
            [
                torch.arange(before),
                before + kept,
                before + NUM_VISUAL + torch.arange(len(after)),
            ]
        )
        attention = None
        for index in range(self.layer):
            hidden, attention = self._run(index, hidden, positions)
        if late is None:
            rows = attention[0, :, before + len(visual) :]  # type: ignore[index]
            late = star.select_late(rows[..., before : before + len(visual)], self.num_late)
        places = torch.cat([torch.arange(before), before + late, torch.arange(before + len(visual), len(hidden))])
        hidden, positions = hidden[places], positions[places]
        for index in range(self.layer, LAYERS):
            hidden, _ = self._run(index, hidden, positions)
        return self.model.lm_head(self.decoder.norm(hidden[-1])), late

    def _run(self, index: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        length = len(hidden)
        if self.is_compact:
            positions = torch.arange(length)
        mask = torch.full((1, 1, length, length), -torch.inf).triu(1)
        rotary = self.decoder.rotary_emb(hidden[None], positions[None])
        seen: list[Any] = []
        block = self.decoder.layers[index]
        handle = block.self_attn.register_forward_hook(lambda *hooked: seen.append(hooked[-1][1]))
        out = block(hidden[None], attention_mask=mask, position_embeddings=rotary)
        handle.remove()
        return out[0], seen[0]


def captured(engine: Engine, records: Sequence[Record]) -> list[tuple[EngineSequence, EncodedImage]]:
    """The sequences as they were just before prefill, with their early survivors."""
    caught: list[tuple[EngineSequence, EncodedImage]] = []
    prefill = engine._core._runner.prefill

    def spy(sequences: Sequence[EngineSequence]) -> Tensor:
        caught.extend((s, s.images[0].survivors) for s in sequences)
        return prefill(sequences)

    engine._core._runner.prefill = spy  # type: ignore[method-assign]
    engine.answer(records, max_new_tokens=10)
    return caught


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("layer", [2, 3, 5])
def test_two_stages_equal_a_full_recompute_at_every_step(tiny: str, layer: int, positions: str) -> None:
    pruning = Pruning(method="star", early_keep=30, late_keep=7, late_layer=layer, positions=positions)
    reference = Reference(tiny, layer=layer, num_late=7, is_compact=positions == "compact")
    records = [replace(record, with_kept=True) for record in random_records(8)]
    with Engine.from_pretrained(
        tiny, pruning=pruning, dtype="float32", options=EngineOptions(vision_batch=4)
    ) as engine:
        for sequence, image in captured(engine, records):
            assert reference.generate(sequence, image, 10) == tuple(sequence.output)
            assert answer_of(sequence).kept == reference.kept


def test_layers_below_the_late_one_are_as_without_it(tiny: str) -> None:
    """Everything kept early: the cache of the first layers must not know of the late cut."""
    caches = []
    for late_keep in (NUM_VISUAL, 5):
        pruning = Pruning(method="star", early_keep=NUM_VISUAL, late_keep=late_keep, late_layer=3)
        with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32") as engine:
            engine.answer(random_records(4), max_new_tokens=1)
            caches.append(engine._core._runner._cache)
    whole, cut = caches
    used = 4 * -(-(NUM_VISUAL + 4) // EngineOptions().page_size)
    for layer in range(3):
        assert whole._keys[layer][:used].any()
        assert whole._keys[layer][:used].equal(cut._keys[layer][:used])
        assert whole._values[layer][:used].equal(cut._values[layer][:used])
    assert not whole._keys[3][:used].equal(cut._keys[3][:used])


class _Shape:
    """As much of a model as a cache asks for."""

    num_kv_heads, head_dim, dtype, device = 2, 8, torch.float32, torch.device("cpu")


def span(start: int, before: int, visual: int, after: int) -> Span:
    return Span(start, before + visual + after, torch.arange(before, before + visual), after)


def attend(query: Tensor, key: Tensor, value: Tensor, spans: list[Span]) -> PackedPrefill:
    cache = KVCache(_Shape(), [range(1)], [4], 16)  # type: ignore[arg-type]
    tokens = torch.arange(query.shape[1])
    batch = PackedPrefill(cache, spans, torch.stack([tokens // 16, tokens % 16]), score_layer=0)
    batch.out = batch.attend(0, query, key, value, scaling=8**-0.5)  # type: ignore[attr-defined]
    return batch


def test_a_later_token_changes_no_earlier_row() -> None:
    """Asked for attention weights, the library runs eagerly, where no mask means bidirectional: ours must not."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(heads, 20, 8, generator=generator) for heads in (4, 2, 2))
    spans = [span(0, 2, 6, 4), span(12, 1, 4, 3)]
    first = attend(query, key, value, spans)
    for tensor in (query, key, value):
        tensor[:, 11] += 1.0
    second = attend(query, key, value, spans)
    unchanged = [row for row in range(20) if row != 11]
    assert first.out[:, unchanged].equal(second.out[:, unchanged])  # type: ignore[attr-defined]
    assert not first.out[:, 11].equal(second.out[:, 11])  # type: ignore[attr-defined]
    assert first.scores[0][:, :3].equal(second.scores[0][:, :3])
    assert first.scores[1].equal(second.scores[1])


def test_scores_equal_eager_attention_under_an_explicit_causal_mask() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(heads, 12, 8, generator=generator) for heads in (4, 2, 2))
    scores = attend(query, key, value, [span(0, 2, 6, 4)]).scores[0]
    mask = torch.full((12, 12), -torch.inf).triu(1)
    eager = (query @ key.repeat_interleave(2, 0).mT * 8**-0.5 + mask).softmax(-1)
    assert torch.allclose(scores, eager[:, 8:, 2:8], atol=1e-6)


def test_without_text_after_the_image_the_last_row_stands_for_it() -> None:
    query, key, value = (torch.randn(heads, 8, 8) for heads in (4, 2, 2))
    assert attend(query, key, value, [span(0, 2, 6, 0)]).scores[0].shape == (4, 1, 6)
