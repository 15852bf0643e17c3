"""The server of ``serket watch``: who gets an answer, what it says, and how it ends."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from actors.coordination.events import RoundStarted, TimedEvent, UpdateStarted
from runner.commands.watch import make_server
from runner.runs.outline import read_outline
from runner.runs.run_files import RunDirectoryError
from tests.conftest import wait_until
from tests.runner.runs.test_live import CONFIG
from tests.support.pages import Page


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    (path / "config.yaml").write_text(CONFIG)
    read_outline(path).directory.log.append(
        [TimedEvent(1e9, RoundStarted(1)), TimedEvent(1e9, UpdateStarted(0, "mm", 1))]
    )
    return path


@pytest.fixture
def server(run):
    made = make_server(run)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_the_page_shows_every_module_and_only_its_own_script_may_run(server):
    answer, body = ask(server, f"/{server.token}/")
    assert answer.status == 200
    page = Page(body)
    assert [a["data-module"] for _, a in page.elements if "data-module" in a] == ["data", "gmm", "mm"]
    policy = answer.headers["Content-Security-Policy"]
    assert re.match(r"default-src 'none'; .*script-src 'sha256-[\w+/=]{44}'; connect-src 'self'; ", policy)
    assert "frame-ancestors 'none'" in policy
    assert (answer.headers["Referrer-Policy"], answer.headers["Cache-Control"]) == ("no-referrer", "no-store")


def test_the_state_is_json(server):
    answer, body = ask(server, f"/{server.token}/state")
    assert answer.headers["Content-Type"] == "application/json"
    state = json.loads(body)
    assert (state["run"], state["round"], state["modules"]["mm"]["state"]) == ("small", 1, "learning")


@pytest.mark.parametrize("path", ["/", "/state", "//state", "/wrong/state", "/{}x/state", "/%00/", "/" + "a" * 5000])
def test_without_the_token_nothing_is_answered(server, path):
    answer, body = ask(server, path.format(server.token[:-1]))
    assert answer.status == 403
    assert "small" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "", "[::1]:80"])
def test_a_request_for_another_host_is_refused(server, host):
    answer, _ = ask(server, f"/{server.token}/state", Host=host)
    assert answer.status == 403


def test_localhost_is_this_host(server):
    assert ask(server, f"/{server.token}/state", Host=f"localhost:{server.server_port}")[0].status == 200


@pytest.mark.parametrize("path", ["x", "../../etc/passwd", "state/x", "end"])
def test_there_are_no_other_pages(server, path):
    assert ask(server, f"/{server.token}/{path}")[0].status == 404


def test_it_listens_on_the_loopback_address_and_each_server_has_its_token(server, run):
    assert server.server_address[0] == "127.0.0.1"
    other = make_server(run)
    other.server_close()
    assert len(server.token) >= 43
    assert other.token != server.token


def test_a_page_of_another_origin_cannot_end_it(server):
    assert ask(server, f"/{server.token}/end", "POST", Origin="http://evil.example")[0].status == 404
    assert ask(server, f"/{server.token}/state")[0].status == 200


def test_its_own_page_ends_it(run):
    server = make_server(run)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    assert ask(server, f"/{server.token}/end", "POST", Origin=f"http://127.0.0.1:{server.server_port}")
    thread.join(5)
    server.server_close()
    assert not thread.is_alive()


def test_files_are_read_at_most_twice_a_second(server, monkeypatch):
    polls = []
    poll = server._live.poll
    monkeypatch.setattr(server._live, "poll", lambda: polls.append(1) or poll())
    for _ in range(5):
        ask(server, f"/{server.token}/state")
    assert len(polls) == 1


def test_a_port_that_is_taken_is_named(server, run):
    with pytest.raises(RunDirectoryError, match=f"--port {server.server_port}: .*; choose another one"):
        make_server(run, server.server_port)


def test_nothing_is_read_at_a_url_that_a_config_names(run):
    (run / "config.yaml").write_text(CONFIG + "checkpoints: {storage: 's3://somebody/else'}\n")
    with pytest.raises(RunDirectoryError, match="not known as that of a run of yours"):
        make_server(run)


def test_the_command_prints_the_address_and_ends_with_an_interrupt(run):
    serket = Path(sys.executable).with_name("serket")
    started = subprocess.Popen([serket, "watch", run], stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        line = started.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+/[\w-]{43}/  \(Ctrl-C ends the page", line)
        port, token = re.match(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", line).groups()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
        connection.request("GET", f"/{token}/state")
        assert json.loads(connection.getresponse().read())["run"] == "small"
        started.send_signal(signal.SIGINT)
        assert wait_until(lambda: started.poll() is not None, 10)
        assert started.returncode == 0
    finally:
        started.kill()
        started.wait()
