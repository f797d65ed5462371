"""Attention by blocks: the same as attention in one piece, whatever the lengths and however heads are shared."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star_batch.models.attention import causal_attention, full_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def random_heads(heads: int, tokens: int, seed: int) -> Tensor:
    """`[H, T, d]` as the library's layers lay it out: heads of a token side by side."""
    return torch.randn(tokens, heads, 16, generator=torch.Generator().manual_seed(seed)).transpose(0, 1)


def eager(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
    """The last query on all keys."""
    shared = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(shared, 0), value.repeat_interleave(shared, 0)
    logits = query @ key.mT * 0.25
    if is_causal:
        logits += torch.full(logits.shape[1:], -torch.inf).triu(1 + key.shape[1] - query.shape[1])
    return logits.softmax(-1) @ value


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 17, 127, 128, 129, 300]), min_size=1, max_size=4),
    shared=st.sampled_from([1, 3]),
    dtype=st.sampled_from(list(TOLERANCE)),
    before=st.sampled_from([0, 1, 35]),
)
def test_packed_sequences_attend_only_to_their_own_past(
    lengths: list[int], shared: int, dtype: torch.dtype, before: int
) -> None:
    seen = [before + length for length in lengths]
    query = random_heads(2 * shared, sum(lengths), seed=0)
    key, value = (random_heads(2, sum(seen), seed) for seed in (1, 2))
    found = causal_attention(query.to(dtype), key.to(dtype), value.to(dtype), 0.25, lengths, before)
    assert found.dtype == dtype
    parts = zip(query.split(lengths, dim=1), key.split(seen, dim=1), value.split(seen, dim=1), strict=True)
    expected = torch.cat([eager(q, k, v, True) for q, k, v in parts], dim=1)
    assert torch.allclose(found.float(), expected, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("tokens", [5, 577])
def test_every_query_sees_every_key_of_its_own_sequence(dtype: torch.dtype, tokens: int) -> None:
    query, key, value = (torch.stack([random_heads(2, tokens, 10 * s + n) for n in range(3)]) for s in range(3))
    found = full_attention(query.to(dtype), key.to(dtype), value.to(dtype), 0.25)
    expected = torch.stack([eager(q, k, v, False) for q, k, v in zip(query, key, value, strict=True)])
    assert torch.allclose(found.float(), expected, atol=TOLERANCE[dtype])
