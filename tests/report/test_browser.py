"""The page in a real browser: it opens without a word of complaint, asks for nothing, and hostile texts stay texts."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from star_batch.report import Choice, RowNotes, render
from star_batch.report.labels import Uncertain
from star_batch.report.rows import Failed
from tests.report.samples import HOSTILE, report, sample, summary

WIDTHS = (1280, 360)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("--disable-background-networking", "--disable-component-update", "--no-first-run")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *quiet):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Callable[..., Any]:
    def opened(page: str, width: int = WIDTHS[0], scheme: str = "light") -> Any:
        (tmp_path / "report.html").write_text(page, encoding="utf-8")
        browser.get_log("browser"), browser.get_log("performance")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get((tmp_path / "report.html").as_uri())
        return browser

    return opened


def test_it_opens_without_complaint_and_asks_for_nothing(show: Callable[..., Any]) -> None:
    opened = show(render(report()))
    asked = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert opened.get_log("browser") == []
    assert asked
    assert all('"url":"file:///' in message or '"url":"data:image/jpeg' in message for message in asked)
    assert opened.execute_script("return document.querySelector('.card image').getBBox().width") > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen(show: Callable[..., Any], width: int) -> None:
    long = "word" * 100
    opened = show(render(report(samples=[sample(long, prompt=long, answer=long)], place=long)), width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_letters_stand_out_from_the_page_in_light_and_dark(show: Callable[..., Any]) -> None:
    ask = """
        const level = colour => colour.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3;
        const letters = [...document.querySelectorAll('h1, td, .plots svg text')].map(e => {
            const style = getComputedStyle(e);
            return level(e instanceof SVGElement ? style.fill : style.color);
        });
        return [level(getComputedStyle(document.body).backgroundColor), Math.min(...letters), Math.max(...letters)];
    """
    page, _, darkest_enough = show(render(report()), scheme="light").execute_script(ask)
    assert page - darkest_enough > 100
    page, lightest_enough, _ = show(render(report()), scheme="dark").execute_script(ask)
    assert lightest_enough - page > 100


def test_hostile_texts_stay_texts(show: Callable[..., Any]) -> None:
    texts = dict.fromkeys(("id", "prompt", "answer", "reference"), HOSTILE)
    notes = RowNotes(examples={"image_missing": [Failed(HOSTILE, HOSTILE)]})
    run = {"config": {"model": {"name": HOSTILE}}, "code": {HOSTILE: HOSTILE}}
    page = report(samples=[sample(**texts)], notes=notes, run=run, place=HOSTILE, summary=summary(labels={HOSTILE: 1}))
    opened = show(render(page))
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.querySelectorAll('script, img').length") == 0
    assert opened.execute_script("return document.querySelector('.answer').textContent") == HOSTILE
    assert "gotcha" not in opened.title.removesuffix(HOSTILE)


def test_pointing_at_a_picture_shows_it_whole(show: Callable[..., Any]) -> None:
    opened = show(render(report()))
    shade = "return getComputedStyle(document.querySelector('.card g')).opacity"
    assert opened.execute_script(shade) == "1"
    opened.execute_script("document.querySelector('.card svg').focus()")
    opened.execute_async_script("setTimeout(arguments[0], 400)")
    assert opened.execute_script(shade) == "0"


@pytest.mark.parametrize("width", [1280, 375])
def test_a_table_of_labels_is_unbroken_and_moves_by_itself(show: Callable[..., Any], width: int) -> None:
    names = [f"a label of some length {number}" for number in range(20)]
    confusion = {"(one)": {name: dict.fromkeys(names, 12) for name in names}}
    numbers = summary(labels={"cat": 1}, confusion=confusion, agreement={"(one)": 0.5})
    notes = RowNotes(uncertain=[Uncertain(0.1, "row" * 90, "cat", 0.5, "dog", "dog")])
    opened = show(render(report(summary=numbers, notes=notes)), width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    tall = "return Math.max(...[...document.querySelectorAll('.matrix tr')].map(row => row.offsetHeight))"
    assert opened.execute_script(tall) < 45
    wider = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
    assert opened.execute_script(wider)


@pytest.mark.parametrize("width", [1280, 375])
def test_labels_on_a_card_are_unbroken(show: Callable[..., Any], width: int) -> None:
    card = sample(choices=(Choice("word" * 30, 0.7), Choice("none", 0.3)))
    opened = show(render(report(samples=[card] * 2)), width)
    tall = "return Math.max(...[...document.querySelectorAll('.choices tr')].map(row => row.offsetHeight))"
    assert 10 < opened.execute_script(tall) < 35
