"""Follow a run on a web page of this machine: ``serket watch``.

The server listens on the loopback address alone. Its pages lie under a random token, so that other users of the machine
cannot read them, and requests are answered only if they name this host, so that no page of the web can reach it through
a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from actors.limits import MAX_WATCHERS
from runner.report.model_layout import draw_model
from runner.report.pages import render_watch_page
from runner.runs.live import LiveRun
from runner.runs.outline import read_outline
from runner.runs.run_files import RunDirectoryError
from runner.runs.state import is_known_storage, known_address, read_record

HOST = "127.0.0.1"
POLL_SECONDS = 0.5
"""Least time between two looks at the run's files, however many pages are open."""

ASK_SECONDS = 2.0
"""Time between two questions to the coordinator of a run that no driver follows."""


class WatchServer(ThreadingHTTPServer):
    """Serves the page of one run.

    Parameters
    ----------
    live : LiveRun
    page : str
    digest : str
        Of the page's script, for the policy that is sent with it.
    port : int

    Attributes
    ----------
    token : str
    url : str
        Of the page.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, live: LiveRun, page: str, digest: str, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.token = secrets.token_urlsafe(32)
        self.page = page.encode()
        self.policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{digest}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.slots = threading.BoundedSemaphore(MAX_WATCHERS)
        self._live = live
        self._lock = threading.Lock()
        self._polled = -POLL_SECONDS
        self._state = b"{}"

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def state(self) -> bytes:
        """Return the state of the run as JSON; its files are read at most twice a second."""
        with self._lock:
            if time.monotonic() - self._polled >= POLL_SECONDS:
                self._state = json.dumps(self._live.poll(), allow_nan=False).encode()
                self._polled = time.monotonic()
            return self._state

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a reader that has gone is no error of the run."""


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for one run's page and state."""

    server: WatchServer
    timeout = 10
    server_version, sys_version = "serket", ""
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Answer with the page, or with the state of the run."""
        name = self._permitted()
        if name == "":
            self._send(self.server.page, "text/html; charset=utf-8")
        elif name == "state":
            try:
                self._send(self.server.state(), "application/json")
            except (RunDirectoryError, OSError) as error:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        elif name is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        """End the server."""
        name = self._permitted()
        origin = self.headers.get("Origin")
        if name == "end" and origin in (None, *(f"http://{host}" for host in self._hosts)):
            self._send(b"{}", "application/json")
            threading.Thread(target=self.server.shutdown, daemon=True).start()
        elif name is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    @property
    def _hosts(self) -> tuple[str, str]:
        return f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"

    def _permitted(self) -> str | None:
        """Return the name of the page that is asked for; None if the request was refused."""
        if self.headers.get_all("Host", []) not in [[host] for host in self._hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, "the request names another host")
            return None
        token, _, name = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the address lacks the token that serket watch has printed")
            return None
        return name.partition("?")[0]

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(f"{reason}\n".encode(errors="replace"), "text/plain; charset=utf-8", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", self.server.policy),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        """Answer a request, if not too many are being answered."""
        if self.server.slots.acquire(blocking=False):
            try:
                super().handle()
            finally:
                self.server.slots.release()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page asks every second."""


def make_server(path: Path, port: int = 0, ask: Callable[[], Mapping[str, Any] | None] = lambda: None) -> WatchServer:
    """Return the server of a run's page, which listens already.

    Raises
    ------
    RunDirectoryError
        If the run's commits lie at a URL that is not known as that of a run of this user, or if the port is taken.
    """
    outline = read_outline(path)
    place = outline.directory.commits_location
    if not is_known_storage(place):
        raise RunDirectoryError(
            f"{path}: its config names {place} as the place of its commits, which is not known as that of a run of "
            f"yours; follow it with serket attach {outline.directory.cli_name}, which runs the code that it names"
        )
    page, digest = render_watch_page(outline.directory.name, draw_model(outline.types, outline.connections))
    try:
        return WatchServer(LiveRun(outline, ask), page, digest, port)
    except OSError as error:
        raise RunDirectoryError(f"--port {port}: {error.strerror}; choose another one, or leave it out") from error


def watch(
    path: Path, *, port: int = 0, address: str | None = None, browser: bool = False, log: Callable[[str], None]
) -> None:
    """Serve the page of a run until an interrupt, or until its reader ends it.

    Parameters
    ----------
    path : Path
        The run's directory.
    port : int
        0 for a free one.
    address : str, optional
        Address of the cluster of a run that no driver follows; by default as recorded in the user's state.
    browser : bool
        Whether to open the page in the browser.
    log : callable
        Receives the address of the page.
    """
    with ExitStack() as stack:
        coordinator = _Coordinator(stack, path, address)
        server = make_server(path, port, coordinator)
        stack.callback(server.server_close)
        if not read_outline(path).directory.is_locked():
            coordinator()  # joins the cluster from this thread, which receives the signals
        log(f"{server.url}  (Ctrl-C ends the page; the run goes on)")
        if browser:
            import webbrowser

            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.25)


class _Coordinator:
    """Asks the coordinator of a run on a cluster what its modules do, at most every :data:`ASK_SECONDS`."""

    def __init__(self, stack: ExitStack, path: Path, address: str | None) -> None:
        self._stack = stack
        self._directory = read_outline(path).directory
        self._address = address
        self._client: Any = None
        self._tried = False
        self._asked = -ASK_SECONDS
        self._answer: Mapping[str, Any] | None = None

    def __call__(self) -> Mapping[str, Any] | None:
        """Return the last description of the actors, None if the run is on no cluster that is known.

        If that cannot be known, ``unknown`` says why.
        """
        if time.monotonic() - self._asked < ASK_SECONDS:
            return self._answer
        self._asked = time.monotonic()
        record = read_record(self._directory.path)
        if not known_address(record, self._address) and not (record and record.address):
            return None
        from runner.cluster.errors import ClusterError, CoordinatorEndedError  # only now: joining a cluster imports Ray
        from runner.runs.connect import connect_to_run

        try:
            if not self._tried:
                self._tried = True
                self._client = self._stack.enter_context(connect_to_run(self._directory, address=self._address))
            self._answer = self._client.describe() if self._client is not None else None
        except CoordinatorEndedError:
            self._answer, self._client = None, None
        except ClusterError as error:
            self._answer = {"unknown": str(error)}
        return self._answer
