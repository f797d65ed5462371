"""The page says what the numbers say, loads nothing from elsewhere, and leaves texts from outside texts."""

import re
import unicodedata
from dataclasses import replace
from html import unescape

import pytest

from star_batch.metrics import Summary
from star_batch.report import Report, RowNotes, render
from star_batch.report.rows import Failed
from tests.report.samples import HOSTILE, report, sample, summary

MAX_BYTES = 1_500_000


def test_the_page_says_what_was_counted() -> None:
    page = render(report())
    shown = (
        "1,960 of 2,000 rows answered, 40 failed",
        "91.2 %",
        "77.0",
        "in 25 s",
        "7.2 s",
        "image_missing",
        "no image",
    )
    for text in (*shown, "demo · star, keep 36 · 2026-11-20", "after the early stage", "18, 12 %"):
        assert text in page


def test_a_card_says_what_was_asked_answered_and_kept() -> None:
    page = render(report(samples=[sample("row-9", answer="a dog", reference="a cat")]))
    for shown in ("what is it?", "a dog", "expected: a cat", "64 → 16 → 8 tokens", "row-9", "data:image/jpeg;base64,"):
        assert shown in page


def test_the_legend_names_the_stages_that_dropped_something() -> None:
    everything, some = tuple(range(64)), (1, 2, 3)
    for kept, names in (((everything,), ""), ((some,), "early"), ((everything, some), "late"), ((some, (2,)), "both")):
        page = render(report(samples=[sample(kept=kept)]))
        assert ("dropped early" in page) == (names in ("early", "both"))
        assert ("dropped late" in page) == (names in ("late", "both"))


@pytest.mark.parametrize("place", ["id", "prompt", "answer", "reference"])
def test_texts_of_a_card_stay_texts(place: str) -> None:
    page = render(report(samples=[sample(**{place: HOSTILE})]))
    assert "<script" not in page
    assert HOSTILE in unescape(page)


def test_other_texts_from_outside_stay_texts() -> None:
    run = {"config": {"model": {"name": HOSTILE}, HOSTILE: HOSTILE}, "code": {"x": HOSTILE}, "started": HOSTILE}
    notes = RowNotes(examples={"image_missing": [Failed(HOSTILE, HOSTILE)]})
    numbers = summary(labels={HOSTILE: 3}, finish_reasons={HOSTILE: 1})
    page = render(report(run=run, notes=notes, summary=numbers, place=HOSTILE))
    assert "<script" not in page
    assert "<img" not in page


@pytest.mark.parametrize("long", ["", "x" * 1_000_000])
def test_no_control_character_reaches_the_page(long: str) -> None:
    """C0 but tab and line feed, C1, what turns the direction of writing, Unicode's line breaks, lone surrogates."""
    controls = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F)]))
    text = f"{controls}\u2028\u2066\u200f\ud800{long}"
    cards = [sample(text, prompt=text, answer=text, reference=text)]
    numbers = summary(labels={text: 3}, failed_by_type={text: 1}, confusion={text: {text: {text: 1}}})
    run = {"config": {"model": {"name": text, "revision": text}}, "started": text}
    notes = RowNotes(examples={text: [Failed(text, text[:500])]})
    numbers = replace(numbers, agreement={text: 1.0})
    page = render(report(place=text, samples=cards, summary=numbers, run=run, notes=notes))
    assert {c for c in page if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} <= {"\n", "\t"}
    assert not {*"\u202a\u202b\u202d\u202e\u2066\u200f"} & set(page)
    assert page.encode()


def test_all_languages_reach_the_page_as_they_are() -> None:
    answer = "は\u3000い\nnon\u00a0! \u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f680"
    assert answer in render(report(samples=[sample(answer=answer)]))


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = render(report())
    assert not any(mark in page for mark in ("http://", "https://", "src=", "@import", "<link"))
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "default-src 'none'" in page


@pytest.mark.parametrize("state", ["running", "stopped", "dead"])
def test_a_job_without_answers_has_a_page_too(state: str) -> None:
    page = render(Report(place="out", state=state, summary=Summary(rows=0, answered=0, failed=0)))
    assert "0 of 0 rows answered" in page
    assert state in page


def test_a_record_of_another_version_is_shown_as_far_as_it_goes() -> None:
    page = render(report(run={"config": {"model": "a name alone", "pruning": None}, "versions": {"ray": "3"}}))
    assert "&#34;ray&#34;: &#34;3&#34;" in page


def test_a_thousand_large_samples_make_no_large_page() -> None:
    large = [sample(f"row-{n}", picture=bytes(40_000), prompt="long " * 1000) for n in range(1000)]
    assert len(render(report(samples=large)).encode()) < MAX_BYTES
