"""How an answer is decoded and when it ends."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from star_batch import Answer, Decoding, Engine, Pruning, Record
from star_batch.engine.choices import choice_trie
from star_batch.engine.sampling import nucleus
from tests.tiny import random_image, random_records


def answer(model: str, records: list[Record], decoding: Decoding | None = None) -> list[Answer]:
    with Engine.from_pretrained(model, pruning=Pruning(method="star", keep=16), dtype="float32") as engine:
        return engine.answer(records, decoding=decoding or Decoding(max_new_tokens=8))


def record(id: str = "a", seed: int = 0, **fields: object) -> Record:
    return Record(id, random_image(seed), "w1 w2 w3", **fields)  # type: ignore[arg-type]


def test_each_record_has_its_own_limit(tiny: str) -> None:
    short, usual = answer(tiny, [record("a", max_new_tokens=2), record("b")])
    assert (short.num_output, short.finish_reason) == (2, "length")
    assert usual.num_output == 8
    assert usual.token_ids[:2] == short.token_ids


def test_no_stop_token_before_the_minimum(tiny: str) -> None:
    free = answer(tiny, random_records(40), Decoding(max_new_tokens=30))
    stopped = next(a for a in free if a.finish_reason == "stop")
    chosen = next(r for r in random_records(40) if r.id == stopped.id)
    longer = Record(chosen.id, chosen.image, chosen.prompt, min_new_tokens=30)
    (forced,) = answer(tiny, [longer], Decoding(max_new_tokens=30))
    assert (forced.num_output, forced.finish_reason) == (30, "length")
    assert forced.token_ids[: stopped.num_output - 1] == stopped.token_ids[:-1]  # type: ignore[operator]


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(tiny: str) -> None:
    (whole,) = answer(tiny, [record()])
    words = (whole.text or "").split()
    (cut,) = answer(tiny, [record(stop=(words[3],))])
    first = words.index(words[3])
    assert (cut.text, cut.finish_reason) == (" ".join(words[:first]), "stop")


def test_a_draw_depends_on_seed_and_id_alone(tiny: str) -> None:
    sampled = Decoding(max_new_tokens=8, temperature=1.0, seed=1)
    many = answer(tiny, [record(f"r{i}") for i in range(9)], sampled)
    (alone,) = answer(tiny, [record("r4")], sampled)
    assert alone.token_ids == many[4].token_ids
    assert len({a.token_ids for a in many}) > 1, "the same image and prompt, other ids: other draws"
    (other,) = answer(tiny, [record("r4")], Decoding(max_new_tokens=8, temperature=1.0, seed=2))
    assert other.token_ids != alone.token_ids


def test_a_tiny_nucleus_is_greedy(tiny: str) -> None:
    greedy = answer(tiny, random_records(5))
    sampled = answer(tiny, random_records(5), Decoding(max_new_tokens=8, temperature=1.0, top_p=1e-9))
    assert [a.token_ids for a in sampled] == [a.token_ids for a in greedy]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(weights: list[float], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, top_p)
    inside = kept > 0
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept[inside].min() < top_p
    if not inside.all():
        assert probabilities[inside].min() >= probabilities[~inside].max()


def test_an_answer_with_choices_is_always_one_of_them(tiny: str) -> None:
    choices = ("w1 w2", "w1 w3", "w1 w3 w4", "w9")
    found = answer(tiny, [record(f"r{i}", seed=i, choices=choices) for i in range(30)])
    assert {a.text for a in found} <= set(choices)
    assert len({a.text for a in found}) > 1
    for a in found:
        assert a.label == a.text
        assert a.label_probability is not None
        assert 0 < a.label_probability <= 1


def test_choices_that_part_at_the_first_token_need_no_decode_step(tiny: str) -> None:
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        (found,) = engine.answer([record(choices=("w5 w6 w7", "w8 w6 w7"))])
        assert engine.stats().decode_steps == 0
    assert found.num_output == 3


def test_the_probabilities_of_all_choices_add_up() -> None:
    """What the trie offers at each node is everything that can follow, so shares multiply to a distribution."""
    trie = choice_trie({"a": (1,), "ab": (1, 2), "c": (3, 4)})
    assert sorted(trie.options(end_id=0)) == [1, 3]
    assert sorted(trie.children[1].options(end_id=0)) == [0, 2]
    assert not trie.children[1].is_decided
    assert trie.children[3].is_decided
    assert trie.depth == 2
