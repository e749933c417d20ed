"""The report in a real browser: nothing fetched, nothing failing, nothing wider than a phone."""

import os
import shutil

import numpy as np
import pytest
from made_up_probe import probed_run
from made_up_run import LSTM_GATES, empty_run, lstm_run, record, tensor_info

from see_rnn_like.history import Event
from see_rnn_like.labels import TensorKey
from see_rnn_like.report import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright for Python: pip install playwright"
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LONG = "encoder/" * 12 + "bidirectional_with_a_very_long_name"
SCRIPT = "<script>document.title = 'taken over'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    profile = tmp_path_factory.mktemp("profile")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=CHROMIUM, args=list(SWITCHES), env={**os.environ, "HOME": str(profile)}
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything: gates, NaN, events, long and hostile names, epochs."""
    meta = {"model": {"name": "char_lstm", "parameters": 5, "layers": [], "summary": "x" * 200}}
    run = lstm_run(steps=range(0, 100, 20), layers=["lstm"], roles=["kernel"], meta=meta)
    for name in (LONG, SCRIPT):
        run.declare([tensor_info(f"{name}/forward/kernel:weight", (2, 4, 3), LSTM_GATES)])
    arrays = {f"{name}/forward/kernel:weight": np.full((2, 4, 3), np.nan) for name in (LONG, SCRIPT)}
    record(run, 100, arrays, logs={"loss": np.nan})
    key = TensorKey(LONG, "forward", "kernel", "weight")
    run.add_event(Event(100, "nan", key, "forget", {"nan": 6, "inf": 0, "count": 6}, f"NaN: {SCRIPT}"))
    run.add_epoch(0, 100, {f"metric_{number}": 1.0 for number in range(20)})
    return write_report(run, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A report on the inside of recurrent layers, with settings of long names."""
    layers = {LONG: ("LSTM", ["forward", "backward"]), "gru": ("GRU", ["forward"])}
    optimizer = {"class": "Adam", "gradient_accumulation_steps_of_a_very_long_name": None}
    run = probed_run(layers, meta={"optimizer": optimizer})
    return write_report(run, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return write_report(empty_run(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (360, "dark")], ids=str)
def view(request, browser):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    yield context
    context.close()


def opened(context, path):
    """The page, with what it asked for and what went wrong."""
    page = context.new_page()
    page.requests, page.problems = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(path.as_uri())
    return page


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")


@pytest.mark.parametrize("which", ["report", "inside", "empty"])
def test_it_opens_without_a_request_or_an_error(view, which, request):
    path = request.getfixturevalue(which)
    page = opened(view, path)
    unfold(page)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    fetched = [url for url in page.requests if not url.startswith("data:image/png;base64,")]
    assert fetched == [path.as_uri()]
    assert page.problems == []


@pytest.mark.parametrize("which", ["report", "inside", "empty"])
def test_nothing_is_wider_than_the_screen(view, which, request):
    page = opened(view, request.getfixturevalue(which))
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter(box => !box.closest('.scroll, svg, .skip'))
            .filter(box => box.getBoundingClientRect().right > window.innerWidth + 0.5)
            .map(box => box.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_scripts_in_names_do_not_run(view, report):
    page = opened(view, report)
    assert page.title() == "char_lstm – training report"
    assert page.locator("script").count() == 0
    assert page.get_by_text(f"NaN: {SCRIPT}").count() == 1


def test_the_page_itself_forbids_scripts_and_requests(browser, report):
    context = browser.new_context()
    page = opened(context, report)
    page.evaluate(
        "document.body.append(Object.assign(new Image(), { src: 'https://example.invalid/x.png' }))"
    )
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in problem for problem in page.problems)
    context.close()


def test_text_and_lines_of_the_pictures_follow_the_theme(browser, report):
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = opened(context, report)
        colours[scheme] = page.evaluate(
            """() => ['body', 'svg text', 'svg path[style*="--c-0072b2"]']
                .map(place => document.querySelector(place))
                .map(found => [getComputedStyle(found).backgroundColor, getComputedStyle(found).fill,
                               getComputedStyle(found).stroke])"""
        )
        context.close()
    light, dark = colours["light"], colours["dark"]
    assert (light[0][0], dark[0][0]) == ("rgb(255, 255, 255)", "rgb(22, 24, 29)")
    assert light[1][1] == "rgb(36, 41, 47)"
    assert min(map(int, dark[1][1][4:-1].split(","))) > 200
    assert light[2][2] == "rgb(0, 114, 178)"
    assert dark[2][2].startswith("rgb(")


@pytest.mark.parametrize("which", ["report", "inside"])
def test_letters_of_the_pictures_are_legible_on_a_phone(browser, which, request):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = opened(context, request.getfixturevalue(which))
    unfold(page)
    heights = page.evaluate(
        """() => [...document.querySelectorAll('figure:not(.wide) svg')].map(svg =>
            Math.min(...[...svg.querySelectorAll('text')].map(text =>
                parseFloat(getComputedStyle(text).fontSize) * svg.getScreenCTM().a)))"""
    )
    assert len(heights) > 10
    assert min(heights) >= 7.5
    context.close()


def test_a_link_of_the_contents_opens_its_layer(browser, report):
    context = browser.new_context(viewport={"width": 1280, "height": 844}, reduced_motion="reduce")
    page = opened(context, report)
    link = page.locator("nav .layer a").last
    anchor = link.get_attribute("href")
    box = page.locator(f"details:has({anchor})")
    assert not box.evaluate("box => box.open")
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("anchor => document.querySelector(anchor).closest('details').open", arg=anchor)
    assert page.locator(anchor).bounding_box()["y"] < 844
    context.close()


def test_layers_open_and_close_by_keyboard(browser, report):
    context = browser.new_context()
    page = opened(context, report)
    box = page.locator("details.layer").first
    before = box.evaluate("box => box.open")
    box.locator("summary").focus()
    page.keyboard.press("Space")
    assert box.evaluate("box => box.open") != before
    context.close()


def test_on_paper_every_layer_is_unfolded(browser, report):
    context = browser.new_context(color_scheme="dark")
    page = opened(context, report)
    page.emulate_media(media="print")
    heights = page.evaluate(
        "() => [...document.querySelectorAll('details.layer .inside')].map(box => box.checkVisibility())"
    )
    assert heights
    assert all(heights)
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    context.close()
