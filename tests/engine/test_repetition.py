"""The checkpoint's repetition penalty: token for token what the library's own `generate` says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from star_batch import Answer, Decoding, Engine, EngineOptions, Record
from star_batch.engine.choices import ChoiceSearch
from star_batch.engine.repetition import Repetition
from star_batch.engine.sequence import SamplingParameters, Sequence
from star_batch.models import Prompt
from tests.engine.reference import generate
from tests.families import FAMILIES, varied_records
from tests.tiny import random_image

MakePenalised = Callable[[float], str]


@pytest.fixture(scope="module", params=FAMILIES)
def penalised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakePenalised:
    """A checkpoint of a family, whose generation settings say how much."""
    folder = tmp_path_factory.mktemp("model")
    FAMILIES[request.param](folder)

    def saying(penalty: float) -> str:
        settings = {"eos_token_id": 2, "repetition_penalty": penalty}
        (folder / "generation_config.json").write_text(json.dumps(settings))
        return str(folder)

    return saying


def answers(model: str, records: list[Record], decoding: Decoding, max_rows: int = 64) -> list[Answer]:
    with Engine.from_pretrained(model, dtype="float32", options=EngineOptions(max_rows=max_rows)) as engine:
        found = engine.answer(records, decoding=decoding)
    assert [answer.error for answer in found] == [None] * len(found)
    return found


def tokens(found: list[Answer]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in found]


@pytest.mark.parametrize("penalty", [1.05, 1.5])
def test_answers_are_the_librarys_generate(penalised: MakePenalised, penalty: float) -> None:
    """One to three images each; alone, together, and with fewer slots than rows, so that places are used again."""
    model, records, decoding = penalised(penalty), varied_records(7), Decoding(max_new_tokens=12)
    expected = generate(model, records, 12)
    assert tokens(answers(model, records, decoding)) == expected
    assert tokens(answers(model, records, decoding, max_rows=1)) == expected
    assert tokens(answers(model, records, decoding, max_rows=3)) == expected


def test_the_penalty_changes_answers_and_the_job_may_choose_its_own(penalised: MakePenalised) -> None:
    """Else the test above would prove nothing."""
    records = varied_records(7)
    plain = generate(penalised(1.0), records, 12)
    much = generate(penalised(1.5), records, 12)
    assert plain != much
    model = penalised(1.5)
    assert tokens(answers(model, records, Decoding(max_new_tokens=12, repetition_penalty=1.0))) == plain
    model = penalised(1.0)
    assert tokens(answers(model, records, Decoding(max_new_tokens=12, repetition_penalty=1.5))) == much


def test_it_comes_before_the_temperature(tiny: str) -> None:
    """So much of it that, of all that it does not forbid, nothing is ever drawn twice."""
    hot = Decoding(max_new_tokens=20, temperature=1.0, repetition_penalty=100.0)
    record = Record("a", random_image(0), "w1 w2", min_new_tokens=20)
    usual = answers(tiny, [record], Decoding(max_new_tokens=20, temperature=1.0))
    drawn = answers(tiny, [record], hot)
    assert tokens(drawn) == tokens(answers(tiny, [Record("b", random_image(1), "w3"), record], hot)[1:])
    assert len(set(drawn[0].token_ids)) > len(set(usual[0].token_ids))


def test_choices_are_weighed_without_it(tiny: str) -> None:
    record = Record("a", random_image(0), "w1 w2", choices=("w1 w3", "w1 w4", "w5"))
    [plain] = answers(tiny, [record], Decoding())
    [much] = answers(tiny, [record], Decoding(repetition_penalty=10.0))
    assert much.label_probabilities == plain.label_probabilities


def sequence(prompt: list[int], output: list[int], penalty: float) -> Sequence:
    sampling = SamplingParameters(max_new_tokens=20, repetition_penalty=penalty)
    return Sequence(
        id="a", prompt=Prompt((tuple(prompt),)), num_visual=0, counts=(0,), sampling=sampling, output=output
    )


rows = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), min_size=1, max_size=5),
        st.lists(st.integers(0, 9), max_size=6),
        st.sampled_from([1.0, 1.05, 1.5, 0.8]),
    ),
    min_size=1,
    max_size=6,
)


@given(rows, st.integers(0, 2**32))
def test_any_batch_is_penalised_as_the_library_does_row_by_row(
    batch: list[tuple[list[int], list[int], float]], seed: int
) -> None:
    """Step by step; rows of other penalties, and of none, side by side."""
    repetition = Repetition(image_id=4)
    sequences = [sequence(prompt, [], penalty) for prompt, _, penalty in batch]
    for step in range(7):
        here = [(s, row) for s, row in zip(sequences, batch, strict=True) if step <= len(row[1])]
        if not here:
            break
        logits = torch.randn(len(here), 10, generator=torch.Generator().manual_seed(seed + step))
        expected = logits.clone()
        for index, (one, (prompt, output, penalty)) in enumerate(here):
            one.output = output[:step]
            seen = torch.tensor([prompt + one.output])
            expected[index] = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits[index : index + 1].clone())[0]
        repetition.penalise(logits, [one for one, _ in here])
        assert logits.equal(expected)
        for one, (_, output, _) in here:
            one.finish_reason = "stop" if step == len(output) else None


def test_a_row_without_penalty_costs_nothing() -> None:
    """No table, no copy, and not a number changed."""
    repetition, logits = Repetition(image_id=4), torch.randn(2, 10)
    before = logits.clone()
    choosing = sequence([1], [], 1.5)
    choosing.search = ChoiceSearch({"a": (1,), "b": (2,)})
    repetition.penalise(logits, [sequence([1], [2], 1.0), choosing])
    assert logits.equal(before)
    assert not repetition._places


def test_a_special_token_as_stop_string_ends_the_answer(tiny: str) -> None:
    """The text of an answer never shows one, so no text would ever match it."""
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        record = Record("a", random_image(0), "w1 w2", min_new_tokens=8)
        [free] = engine.answer([record], max_new_tokens=8)
        unknown = "<unk>"
        hot = Decoding(max_new_tokens=200, temperature=1000.0, stop=(unknown,), seed=1)
        [stopped] = engine.answer([Record("a", random_image(0), "w1 w2")], decoding=hot)
        forced = engine.answer([Record("b", random_image(0), "w1", min_new_tokens=100)], decoding=hot)
    assert free.finish_reason == "length"
    assert stopped.token_ids[-1] in (2, 3)
    assert stopped.finish_reason == "stop"
    assert not {2, 3} & set(forced[0].token_ids[:99])


def test_the_order_of_stop_tokens_is_the_models_too(tmp_path: Path, tiny: str) -> None:
    """Greedy: the token that comes third, were it special, would end the answer there."""
    from tests.tiny import save_tiny

    save_tiny(tmp_path)
    with Engine.from_pretrained(str(tmp_path), dtype="float32") as engine:
        [whole] = engine.answer([Record("a", random_image(0), "w1 w2")], max_new_tokens=8)
        third = whole.token_ids[2]
        engine._admission._preprocessor.stop_id = lambda text: third if text == "STOP" else None  # type: ignore[method-assign]
        [cut] = engine.answer([Record("a", random_image(0), "w1 w2", stop=("STOP",))], max_new_tokens=8)
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(third) + 1]
    assert cut.text == " ".join((whole.text or "").split()[: whole.token_ids.index(third)])
