from pathlib import Path

import pytest

from star_batch.commit.snapshots import read_snapshot
from star_batch.errors import PromptTooLong, TooManyFailed
from star_batch.pipeline.failure_limit import MIN_ROWS, FailureLimit, MaxFailed, check_failed, failures
from star_batch.pipeline.job import run
from star_batch.records import Answer
from star_batch.storage.location import Location
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import job, rows, write


def failed(*ids: str) -> tuple[Answer, ...]:
    return tuple(Answer.failed(id, PromptTooLong("300 words")) for id in ids)


@pytest.mark.parametrize(
    ("limit", "answered", "num_failed", "is_spent"),
    [
        (None, 0, 1000, False),
        (0, 10, 0, False),
        (0, 10, 1, True),
        (3, 0, 3, False),
        (3, 0, 4, True),
        (0.05, MIN_ROWS - 11, 10, False),  # a share of few rows says little
        (0.05, MIN_ROWS - 10, 10, True),
        (0.05, 95, 5, False),
        (0.0, 99, 1, True),
    ],
)
def test_a_limit_is_a_number_or_a_share(limit: MaxFailed, answered: int, num_failed: int, is_spent: bool) -> None:
    failed_rows = FailureLimit(limit)
    failed_rows.add(answered, failures(failed(*(f"{n}" for n in range(num_failed)))))
    assert (failed_rows.verdict() is not None) == is_spent


def test_a_row_that_fails_again_after_a_crash_counts_once() -> None:
    failed_rows = FailureLimit(1)
    for _ in range(3):
        failed_rows.add(5, failures(failed("a")))
    assert failed_rows.verdict() is None


def test_the_most_frequent_failure_is_named_with_an_example() -> None:
    failed_rows = FailureLimit(1)
    answers = (
        Answer(id="z", error="no image", error_kind="image_missing"),
        *failed("a", "b"),
        Answer(id="c", text="x"),
    )
    failed_rows.add(1, failures(answers))
    assert failed_rows.verdict() == (
        "3 of 4 rows failed and 1 may (max_failed); most often prompt_too_long (2 of them, such as a: 300 words); "
        "what is committed stays"
    )


def test_the_last_word_is_about_all_rows_that_can_be_seen() -> None:
    examples = {"prompt_too_long": "a: 300 words"}
    check_failed(0.5, 2, {"prompt_too_long": 1}, examples)
    with pytest.raises(TooManyFailed, match=r"^1 of 2 rows failed and 0\.1 of them may .* such as a: 300 words"):
        check_failed(0.1, 2, {"prompt_too_long": 1}, examples)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_job_that_is_plainly_wrong_stops_early_and_goes_on_when_more_may_fail(tmp_path: Path) -> None:
    records = rows(300)
    for record in records[60:]:
        record["image"] = b"no image"
    source = write(tmp_path / "in.parquet", records)
    # Each window is committed before the next but one: which files are full by then would be chance.
    at_once = {"seconds_per_file": 0.001}
    config = job(source, tmp_path / "out", faults={"max_failed": 5}, cluster={"windows": 1}, output=at_once)
    with pytest.raises(
        TooManyFailed, match=r"most often image_unreadable \(.* of them, such as in\.parquet#\d+: "
    ) as caught:
        run(config, backend=FAKE)
    assert caught.value.exit_code == 9
    assert "\n" not in str(caught.value)
    assert 0 < read_snapshot(Location.of(str(tmp_path / "out"))).rows < 300
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    lenient = job(source, tmp_path / "out", faults={"max_failed": 240})
    assert (run(lenient, backend=FAKE).answered, (tmp_path / "out" / "_SUCCESS").exists()) == (60, True)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_small_job_is_judged_at_its_end(tmp_path: Path) -> None:
    records = rows(20)
    records[19]["image"] = None
    source = write(tmp_path / "in.parquet", records)
    config = job(source, tmp_path / "out", faults={"max_failed": 0.01})
    for _ in range(2):
        with pytest.raises(TooManyFailed, match=r"^1 of 20 rows failed and 0\.01 of them may"):
            run(config, backend=FAKE)
        assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert run(job(source, tmp_path / "out", faults={"max_failed": 1}), backend=FAKE).rows == 20
