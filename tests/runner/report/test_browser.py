"""Reports, comparisons and the live page in a real browser (``make test-browser``): what a reader sees."""

import functools
import re
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.coordination.events import ModuleDied, RoundStarted, Scored, TimedEvent, UpdateStarted
from runner.commands.report import report_run, write_comparison
from runner.commands.watch import make_server
from runner.runs.directory import open_run
from runner.runs.outline import read_outline
from runner.sweeps.plan import Sweep
from runner.sweeps.summary import summarize
from tests.runner.runs.test_live import CONFIG
from tests.runner.runs.test_run_report import HOSTILE, learn

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium(request):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"]  # of which a container has none
        browser = playwright.chromium.launch(executable_path=request.config.getoption("--chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with reports, one of which has hostile texts and deaths, and their comparison."""
    folder = tmp_path_factory.mktemp("browser")
    first = learn(folder).path
    second = Path(shutil.copytree(first, folder / "runs" / "hostile"))
    log = open_run(second).directory.log
    log.append([TimedEvent(time.time(), ModuleDied("gmm", "update", 1, HOSTILE))])
    config = second / "config.yaml"
    config.write_text(f"# {HOSTILE}\n{config.read_text()}")
    report_run(first)
    report_run(second)
    write_comparison([first, second], folder / "comparison.html")
    sweep = Sweep(folder / "sweep", {"modules.gmm.classes": [2, 3, HOSTILE]}, [0, 1], "evidence")
    sweep.path.mkdir()
    for trial in sweep.trials[:4]:
        shutil.copytree(first, sweep.path / trial.name)
    failures = {sweep.trials[4].name: HOSTILE}
    summarize(sweep, open_run(first).config, failures).write()
    return folder


REPORTS = ("runs/small/report.html", "runs/hostile/report.html", "comparison.html", "sweep/report.html")


@contextmanager
def opened(browser, address, *, width=1200, dark=False, **options):
    """Yield a page of this width; check that it has no error, and asks nobody but its server for anything."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
    page = context.new_page()
    problems, asked = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(f"a script ran: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_timeout(100)
    yield page
    base = address.rsplit("/", 1)[0]
    assert [url for url in asked if not url.startswith((base, "data:"))] == []
    assert problems == []
    context.close()


def luminance(colour):
    """Return the relative luminance of a CSS colour (WCAG 2.2)."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


STYLE = "(element, name) => getComputedStyle(element)[name]"


@pytest.mark.parametrize("width", [400, 800, 1600])
@pytest.mark.parametrize("name", REPORTS)
def test_a_page_fits_its_window_and_no_picture_is_missing(chromium, runs, name, width):
    with opened(chromium, (runs / name).as_uri(), width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            """[...document.querySelectorAll('figure svg, svg.model')].map((drawn) => {
                 const box = drawn.getBoundingClientRect();
                 return [box.width, box.height, drawn.getBBox().width];
               })"""
        )
        assert len(sizes) >= 4
        assert all(wide > 100 and high > 20 and drawn > 0 for wide, high, drawn in sizes)
        broken = page.evaluate(
            """Promise.all([...document.querySelectorAll('img, image')].map(async (each) => {
                 const picture = new Image();
                 picture.src = each.href ? each.href.baseVal : each.src;
                 try { await picture.decode(); } catch { return 'broken'; }
                 return picture.naturalWidth > 0 ? '' : 'empty';
               })).then((found) => found.filter(Boolean))"""
        )
        assert broken == []


@pytest.mark.parametrize("name", REPORTS[:1])
def test_texts_of_pictures_can_be_read_on_a_telephone(chromium, runs, name):
    with opened(chromium, (runs / name).as_uri(), width=400) as page:
        heights = page.evaluate(
            """[...document.querySelectorAll('figure svg text, svg.model text')]
                 .filter((text) => text.textContent.trim()).map((text) => text.getBoundingClientRect().height)"""
        )
        assert len(heights) > 100
        assert min(heights) >= 7, "pixels"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", REPORTS)
def test_texts_and_axes_contrast_with_the_page_in_light_and_dark(chromium, runs, name, dark):
    with opened(chromium, (runs / name).as_uri(), dark=dark) as page:
        ground = page.eval_on_selector("body", STYLE, "backgroundColor")
        assert (luminance(ground) < 0.1) == dark
        for selector in ("body", "h1", "th", ".panel", "a", "nav a", "header p"):
            assert contrast(page.eval_on_selector(selector, STYLE, "color"), ground) >= 4.5, selector
        card = page.eval_on_selector(".panel", STYLE, "backgroundColor")
        axis = "figure svg text:not([style*=fill])"
        assert contrast(page.eval_on_selector(axis, STYLE, "fill"), card) >= 4.5


def test_the_button_changes_light_and_dark_by_keyboard(chromium, runs):
    with opened(chromium, (runs / REPORTS[0]).as_uri()) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "theme"
        for dark in (True, False):
            page.keyboard.press("Enter")
            assert (luminance(page.eval_on_selector("body", STYLE, "backgroundColor")) < 0.1) == dark


def test_every_link_leads_to_a_part_of_the_page(chromium, runs):
    with opened(chromium, (runs / REPORTS[0]).as_uri()) as page:
        links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
        assert len(links) == 10
        for link in links:
            assert page.query_selector(link) is not None


def test_a_dark_page_is_printed_light(chromium, runs):
    with opened(chromium, (runs / REPORTS[0]).as_uri(), dark=True) as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert luminance(page.eval_on_selector("body", STYLE, "backgroundColor")) > 0.9
        assert luminance(page.eval_on_selector("body", STYLE, "color")) < 0.05
        assert page.eval_on_selector("nav", STYLE, "display") == "none"
        assert page.eval_on_selector("h2", STYLE, "breakAfter") == "avoid", "a heading alone at the end of a page"
        assert len(page.pdf()) > 10_000


@pytest.mark.parametrize("name", REPORTS)
def test_without_scripts_a_page_shows_the_same(chromium, runs, name):
    with opened(chromium, (runs / name).as_uri(), java_script_enabled=False) as page:
        assert page.query_selector("figure svg") is not None
        assert not page.locator("#theme").is_visible()


class TestLive:
    @pytest.fixture
    def run(self, tmp_path):
        path = tmp_path / "small"
        path.mkdir()
        (path / "config.yaml").write_text(CONFIG)
        return read_outline(path).directory

    @pytest.fixture
    def server(self, run):
        with run.lock():
            made = make_server(run.path)
            serve = functools.partial(made.serve_forever, poll_interval=0.05)
            made.thread = threading.Thread(target=serve, daemon=True)
            made.thread.start()
            yield made
            made.shutdown()
            made.server_close()

    def emit(self, run, *events):
        run.log.append([TimedEvent(time.time(), event) for event in events])

    @pytest.mark.parametrize("width", [400, 1200])
    def test_the_page_follows_the_run(self, chromium, run, server, width):
        with opened(chromium, server.url, width=width) as page:
            self.emit(run, RoundStarted(1), UpdateStarted(0, "gmm", 1))
            page.wait_for_selector("g.module.learning", timeout=5000)
            assert page.get_attribute("g.module.learning", "data-module") == "gmm"
            self.emit(run, Scored(1, evidence=-10.0, accuracy=0.5), Scored(2, evidence=-4.0, accuracy=0.75))
            self.emit(run, ModuleDied("gmm", "update", 1, HOSTILE))
            page.wait_for_selector("g.module.lost", timeout=5000)
            assert page.inner_text("#evidence") == "-4.0"
            assert page.inner_text("#accuracy") == "0.7500"
            assert len(page.get_attribute("#spark", "points").split()) == 2
            assert HOSTILE in page.inner_text("#faults")
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_its_button_ends_the_server(self, chromium, run, server):
        with opened(chromium, server.url) as page:
            page.click("#end")
            page.wait_for_function("document.getElementById('status').textContent.includes('has ended')")
            server.thread.join(5)
            assert not server.thread.is_alive()
