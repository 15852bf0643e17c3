"""The built documentation in a real browser (``make test-browser``): nothing missing, nothing from elsewhere."""

import functools
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.runner.report.test_browser import chromium as chromium  # the fixture
from tests.runner.report.test_browser import opened
from tests.test_docs import ROOT

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, built strictly and served on this machine."""
    folder = tmp_path_factory.mktemp("site")
    build = ["mkdocs", "build", "--strict", "-q", "-f", "docs/site/mkdocs.yml", "-d", str(folder)]
    subprocess.run([sys.executable, "-m", *build], cwd=ROOT, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_page_is_whole_in_a_narrow_window_in_light_and_dark(chromium, site):
    folder, address = site
    pages = sorted(path.name for path in folder.glob("*.html") if path.name != "404.html")
    assert len(pages) > 15
    for number, name in enumerate(pages):
        with opened(chromium, f"{address}/{name}", width=400, dark=number % 2 == 0) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
            assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == [], name


def test_equations_are_drawn_and_the_search_finds_pages(chromium, site):
    with opened(chromium, f"{site[1]}/mathematics.html", width=1200) as page:
        sizes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)")
        assert len(sizes) > 50
        assert min(sizes) > 5.0
        assert "\\frac" not in page.inner_text("article")
        page.keyboard.press("/")
        page.keyboard.type("Viterbi", delay=20)
        page.wait_for_selector(".md-search-result__item", timeout=20_000)
        assert "Kernels" in page.inner_text(".md-search-result")
