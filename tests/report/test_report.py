"""The page says what the numbers say, loads nothing from elsewhere, and leaves texts from outside texts."""

from star_batch.metrics import Summary
from star_batch.report import render

HOSTILE = "<script>alert('x')</script>"


def summary() -> Summary:
    return Summary(
        rows=2000,
        answered=1960,
        failed=40,
        failed_by_type={"image_missing": 40},
        num_references=2000,
        num_correct=1824,
        accuracy=0.912,
        mean_visual_tokens=144.0,
        mean_kept_tokens=(54.0, 18.0),
        labels={HOSTILE: 3},
        images_per_second=77.04,
        stage_seconds={"vision": 7.2, "prefill": 4.7},
    )


def test_the_page_says_what_was_counted() -> None:
    page = render(summary(), {"configuration": {"model": "demo"}})
    for shown in ("1,960 of 2,000 rows answered, 40 failed", "77.0", "91.2", "image_missing", "54.0", "7.2", "demo"):
        assert shown in page


def test_texts_from_outside_stay_texts() -> None:
    page = render(summary(), {"configuration": {"model": HOSTILE}, "code": HOSTILE})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") + page.count("\\u003cscript\\u003e") == 3


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = render(summary(), {})
    assert not any(mark in page for mark in ("http://", "https://", "src=", "@import", "<link"))


def test_a_job_without_answers_has_a_page_too() -> None:
    assert "0 of 3 rows answered" in render(Summary(rows=3, answered=0, failed=3), {})
