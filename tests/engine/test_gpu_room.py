"""How much of a GPU's memory the cache of one engine takes, where several engines share it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_batch.engine import kv_cache
from star_batch.engine.kv_cache import free_memory, gpu_room
from star_batch.errors import ConfigError

GIB = float(2**30)


def test_who_has_a_gpu_alone_takes_a_share_of_what_is_free() -> None:
    assert gpu_room(60 * GIB, 80 * GIB, own=14 * GIB, share=1.0) == pytest.approx(0.85 * 60 * GIB)


@given(share=st.sampled_from([0.5, 0.25, 0.2, 0.1]), total=st.floats(8.0, 192.0), weights=st.floats(0.01, 0.9))
def test_each_engine_on_a_gpu_gets_the_same_whoever_comes_first(share: float, total: float, weights: float) -> None:
    """Each loads weights that take a part of its share, then its cache: the last one finds as much as the first."""
    own, free = weights * share * total, total
    rooms = []
    for _ in range(round(1 / share)):
        free -= own
        rooms.append(gpu_room(free, total, own=own, share=share))
        free -= rooms[-1]
    assert rooms == pytest.approx([0.85 * (share * total - own)] * len(rooms))
    assert free >= -1e-6


def test_a_share_that_the_weights_fill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 14 * 2**30)
    device = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"^memory_share 0\.5: 12\.0 of 24\.0 GiB, and the weights alone take 14\.0"):
        free_memory(device, 0.5)
    assert kv_cache.free_memory(device) == pytest.approx(0.85 * 10 * GIB)
