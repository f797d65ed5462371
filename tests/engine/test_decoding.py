"""How an answer is decoded and when it ends."""

import math
from collections.abc import Sequence as Seq

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch import Answer, Decoding, Engine, EngineOptions, Pruning, Record
from star_batch.engine.choices import NEGLIGIBLE, ChoiceNode, ChoiceSearch, choice_trie
from star_batch.engine.finish import extend
from star_batch.engine.sampling import next_tokens
from star_batch.engine.sequence import EncodedImage, SamplingParameters, Sequence, SequenceImage, seed_of
from star_batch.models import Prompt
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


def test_an_answer_with_choices_is_always_one_of_them(tiny: str) -> None:
    choices = ("w1 w2", "w1 w3", "w1 w3 w4", "w9")
    found = answer(tiny, [record(f"r{i}", seed=i, choices=choices) for i in range(30)])
    assert {a.text for a in found} <= set(choices)
    assert len({a.text for a in found}) > 1
    for a in found:
        assert a.label == a.text
        assert a.label_probabilities is not None
        assert tuple(a.label_probabilities) == choices
        assert sum(a.label_probabilities.values()) == pytest.approx(1.0)
        first, second, *_ = sorted(a.label_probabilities.values(), reverse=True)
        assert a.label_probability == first == a.label_probabilities[str(a.label)]
        assert a.label_margin == pytest.approx(first - second)


def test_going_back_in_the_trie_leaves_nothing_in_the_cache(tiny: str) -> None:
    """Each part of the trie asked for alone gives the same shares as all of them in one search that goes back."""
    deep = ("w1 w2 w3", "w1 w2 w4 w5", "w1 w2 w4 w6", "w1 w7")
    both = (*deep, "w9 w2 w3", "w9 w2 w4")
    num_compared = 0
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        for seed in range(12):
            alone, other, whole = engine.answer(
                [record(f"{i}", seed=seed, choices=c) for i, c in enumerate((deep, both[len(deep) :], both))]
            )
            found = whole.label_probabilities or {}
            if min(found.values()) < 0.001:  # a part of the trie may not have been looked into
                continue
            for part in (alone, other):
                shares = part.label_probabilities or {}
                mass = sum(found[choice] for choice in shares)
                assert {c: found[c] / mass for c in shares} == pytest.approx(shares, abs=1e-4)
                num_compared += 1
    assert num_compared


def test_choices_that_part_at_the_first_token_need_no_decode_step(tiny: str) -> None:
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        (found,) = engine.answer([record(choices=("w5 w6 w7", "w8 w6 w7"))])
        assert engine.stats().decode_steps == 0
    assert found.num_output == 3


def test_choices_that_part_at_the_second_token_need_one_decode_step(tiny: str) -> None:
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        engine.answer([record(choices=("w5 w6 w7", "w5 w8 w7"))])
        assert engine.stats().decode_steps == 1


def test_a_trie_knows_where_a_choice_may_end_and_what_follows() -> None:
    trie = choice_trie({"a": (1,), "ab": (1, 2), "c": (3, 4)})
    assert not trie.may_end
    assert trie.children[1].may_end
    assert trie.children[3].rest()[0] == [4]
    assert list(trie.labels()) == ["a", "ab", "c"]


def shares_of(path: tuple[int, ...], options: list[int], may_end: bool) -> list[float]:
    """A model of nothing but numbers: what comes after a path depends on it alone."""
    weights = [1.0 + (hash((path, option)) % 97) ** 2 for option in (*options, *([-1] if may_end else []))]
    return [weight / sum(weights) for weight in weights]


def exactly(node: ChoiceNode, path: tuple[int, ...] = (), mass: float = 1.0) -> dict[str, float]:
    """The probability of every choice, by looking everywhere."""
    if not node.children:
        return {str(node.label): mass}
    shares = shares_of(path, list(node.children), node.may_end)
    found = {str(node.label): mass * shares[-1]} if node.may_end else {}
    for (token, child), share in zip(node.children.items(), shares, strict=False):
        found |= exactly(child, (*path, token), mass * share)
    return found


@settings(deadline=None)
@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=40))
def test_the_search_finds_the_likeliest_choice_by_steps_that_a_cache_allows(choices: set[tuple[int, ...]]) -> None:
    token_ids = {str(choice): choice for choice in sorted(choices)}
    search, output = ChoiceSearch(token_ids), list[int]()
    while True:
        if search.is_at(output):
            search.weigh(shares_of(tuple(output), *search.options))
        if search.is_done:
            break
        before, output = output, search.next_output(output)
        assert output[:-1] == before[: len(output) - 1]
    found, exact = search.probabilities(), exactly(choice_trie(token_ids))
    assert list(found) == list(token_ids)
    assert sum(found.values()) == pytest.approx(1.0)
    assert max(found.values()) == pytest.approx(max(exact.values()))
    assert found == pytest.approx(exact, abs=NEGLIGIBLE * max(exact.values()))


def weighed(
    logits: list[float], choices: dict[str, tuple[int, ...]], stop_ids: set[int], output: list[int]
) -> Sequence:
    """A sequence whose search has seen these logits after `output`."""
    sequence = Sequence(
        id="a",
        prompt=Prompt(((), ())),
        num_visual=1,
        counts=(1,),
        sampling=SamplingParameters(max_new_tokens=5),
        output=output,
        search=ChoiceSearch(choices),
    )
    (token,) = next_tokens(torch.tensor([logits]), [sequence], frozenset(stop_ids))
    extend(sequence, token, stop_ids=frozenset(stop_ids), decode=str)
    return sequence


def test_a_label_is_taken_by_its_share_among_the_choices() -> None:
    sequence = weighed([9.0, 1.0, 2.0, 9.0], {"x": (1,), "y": (2,)}, {0}, [])
    assert sequence.text == "y"
    assert sequence.probabilities == pytest.approx({"x": 1 / (1 + math.e), "y": 1 / (1 + math.exp(-1.0))})


def test_every_stop_token_speaks_for_ending_a_choice() -> None:
    """Chat checkpoints name several; the smallest is seldom the one that ends a turn."""
    sequence = weighed([-9.0, -9.0, 5.0, 0.0, 1.0], {"a": (3,), "ab": (3, 4)}, {1, 2}, [3])
    assert (sequence.text, sequence.finish_reason) == ("a", "stop")


def test_the_likeliest_choice_is_not_where_a_greedy_walk_leads() -> None:
    """Two shades share the first token's mass; the one colour that has less of it is still the best guess."""
    search = ChoiceSearch({"light blue": (1, 2), "light green": (1, 3), "red": (4,)})
    search.weigh([0.6, 0.4])
    assert not search.is_done
    search.weigh([0.5, 0.5])
    assert search.probabilities() == pytest.approx({"light blue": 0.3, "light green": 0.3, "red": 0.4})


def test_the_jobs_stop_strings_hold_for_every_record(tiny: str) -> None:
    (whole,) = answer(tiny, [record()])
    words = (whole.text or "").split()
    (cut,) = answer(tiny, [record()], Decoding(max_new_tokens=8, stop=(words[3],)))
    assert cut.text == " ".join(words[: words.index(words[3])])


def test_a_stop_string_does_not_end_an_answer_before_its_minimum(tiny: str) -> None:
    (whole,) = answer(tiny, [record()])
    (cut,) = answer(tiny, [record(stop=((whole.text or "").split()[0],), min_new_tokens=5)])
    assert cut.num_output == 5


def test_every_step_draws_anew(tiny: str) -> None:
    """A generator seeded without the step would draw the same place of the distribution each time."""
    (flat,) = answer(tiny, [record(min_new_tokens=30)], Decoding(max_new_tokens=30, temperature=1000.0))
    assert len(set(flat.token_ids)) > 10


def test_no_stop_token_is_drawn_before_the_minimum(tiny: str) -> None:
    """At this temperature every token is as likely as another, so some row would stop at once."""
    hot = Decoding(max_new_tokens=20, temperature=1000.0)
    found = answer(tiny, [record(f"r{i}", min_new_tokens=20) for i in range(40)], hot)
    assert {a.num_output for a in found} == {20}
    assert any((a.num_output or 0) < 20 for a in answer(tiny, [record(f"r{i}") for i in range(40)], hot))


def test_chance_has_a_seed(tiny: str) -> None:
    def with_seed(seed: int) -> list[Answer]:
        pruning = Pruning(method="random", keep=8, seed=seed)
        with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32") as engine:
            return engine.answer(random_records(6), max_new_tokens=6)

    assert [a.token_ids for a in with_seed(1)] != [a.token_ids for a in with_seed(2)]


def test_a_row_that_is_not_finite_fails_alone_and_leaves_no_trace(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN left in the pages of a failed row would spread: zero weight times NaN is NaN."""
    records = random_records(9)
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(max_rows=4)) as engine:
        expected = engine.answer(records, max_new_tokens=6)
        vision = engine._core._vision
        encode = vision.encode

        def poisoned(images: Seq[SequenceImage]) -> list[EncodedImage]:
            encoded = encode(images)
            for image, result in zip(images, encoded, strict=True):
                if image.seed == seed_of("r2"):
                    result.visual = result.visual * torch.nan
            return encoded

        monkeypatch.setattr(vision, "encode", poisoned)
        found = [engine.answer(records, max_new_tokens=6) for _ in range(2)]
    for answers in found:
        assert [a.error_kind for a in answers] == [None, None, "not_finite", *[None] * 6]
        assert [a.token_ids for a in answers if not a.error] == [a.token_ids for a in expected if a.id != "r2"]


class Words:
    """A tokenizer as sentencepiece's: a space before each word but at the beginning, and tokens of half a character."""

    def __init__(self) -> None:
        self.calls = 0
        self.pieces = 0

    def decode(self, ids: Seq[int]) -> str:
        self.calls += 1
        self.pieces += len(ids)
        data = b"".join(self.piece(id) for id in ids)
        return data.decode(errors="replace").removeprefix(" ")

    @staticmethod
    def piece(id: int) -> bytes:
        halves = {0: b"", 1: "é".encode()[:1], 2: "é".encode()[1:], 3: b"\n", 4: b"EN", 5: b"D"}
        return halves.get(id, f" w{id}".encode())


STOPS = ["END", "é", " w7 w8", "\n\n", "w11", " "]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=120), st.sampled_from(STOPS))
@settings(max_examples=300)
def test_a_stop_string_is_found_at_the_token_that_completes_it(ids: list[int], stop: str) -> None:
    """As by looking at the whole text after each token."""
    words, sampling = Words(), SamplingParameters(max_new_tokens=1000, stop=(stop,))
    sequence = Sequence(id="a", prompt=Prompt(((), ())), num_visual=0, counts=(0,), sampling=sampling)
    for id in ids:
        extend(sequence, id, stop_ids=frozenset(), decode=words.decode)
        if sequence.finish_reason is not None:
            break
    whole = next((n for n in range(1, len(ids) + 1) if stop in words.decode(ids[:n])), None)
    assert (len(sequence.output) if sequence.finish_reason else None) == whole


def test_a_long_answer_is_not_decoded_anew_for_each_token() -> None:
    words, sampling = Words(), SamplingParameters(max_new_tokens=1000, stop=("END",))
    sequence = Sequence(id="a", prompt=Prompt(((), ())), num_visual=0, counts=(0,), sampling=sampling)
    for _ in range(400):
        extend(sequence, 7, stop_ids=frozenset(), decode=words.decode)
    assert words.pieces < 400 * 12
