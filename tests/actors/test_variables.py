"""Environment variables have a type and bounds; a wrong one is refused in one sentence, before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.variables import (
    READERS,
    VariableError,
    check_variables,
    injected_faults,
    linger_seconds,
    local_runs,
    ray_requires_token,
    ray_token,
    state_path,
)

WRONG = [
    ("SERKET_LINGER_SECONDS", "abc", "'abc', expected a number from 0 to 1e+09"),
    ("SERKET_LINGER_SECONDS", "-1", "expected a number"),
    ("SERKET_LINGER_SECONDS", "nan", "expected a number"),
    ("SERKET_LINGER_SECONDS", "inf", "expected a number"),
    ("SERKET_LINGER_SECONDS", "1e10", "expected a number"),
    ("SERKET_LINGER_SECONDS", "1_0", "expected a number"),
    ("SERKET_LINGER_SECONDS", "9" * 5000, "'…, expected a number"),
    ("SERKET_LINGER_SECONDS", ".", "expected a number"),
    ("SERKET_LOCAL", "yes", "'yes', expected 0 or 1"),
    ("SERKET_TRUST_CLUSTER", "true", "expected 0 or 1"),
    ("SERKET_REPORT", "no", "expected 1 or 0"),
    ("SERKET_CACHE_DIR", "a" * 300, "expected a path"),
    ("SERKET_STATE_DIR", "/x" * 3000, "expected a path"),
    ("SERKET_STATE_DIR", "/tmp/\x1b[31m", "without control characters"),
    ("SERKET_STATE_DIR", "/tmp/\udcff", "in UTF-8"),
    ("SERKET_FAULTS", "gmm", "expected at most 1000 of the form target:phase:round"),
    ("SERKET_FAULTS", "gmm:inside:x", "target:phase:round"),
    ("SERKET_FAULTS", "a:inside:1 " * 2000, "has 2000 faults"),
    ("MLFLOW_TRACKING_URI", "http://host\n", "without control characters"),
    ("RAY_ADDRESS", "host:1\n", "without control characters"),
    ("RAY_ADDRESS", "a" * 100_000, "expected an address HOST:PORT"),
    ("RAY_AUTH_MODE", "tokn", "'tokn', expected token or disabled"),
    ("RAY_AUTH_MODE", " token", "expected token or disabled"),
    ("RAY_AUTH_TOKEN_PATH", "b" * 256, "expected a path"),
    ("RAY_TMPDIR", "/tmp/\x07", "without control characters"),
    ("MALLOC_ARENA_MAX", "two", "expected a whole number"),
    ("TERMINAL_WIDTH", "80.5", "expected a whole number"),
]


@pytest.mark.parametrize(("name", "value", "reason"), WRONG, ids=[f"{name}-{value[:9]!a}" for name, value, _ in WRONG])
def test_a_wrong_variable_is_refused_in_one_sentence_that_names_it(monkeypatch, name, value, reason):
    monkeypatch.setenv(name, value)
    with pytest.raises(VariableError) as caught:
        check_variables()
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert reason in message
    assert message.endswith("correct it, or unset it")
    assert message.isprintable()
    assert len(message) < 300


def test_a_token_is_not_shown_by_the_error_about_it(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim\n")
    with pytest.raises(VariableError, match=r"^RAY_AUTH_TOKEN ") as caught:
        ray_token()
    assert "geheim" not in str(caught.value)


def test_unset_and_empty_variables_have_their_defaults(monkeypatch):
    for value in (None, ""):
        for name in READERS:
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        check_variables()
        assert (linger_seconds(), local_runs(), ray_requires_token(), injected_faults()) == (30.0, False, True, [])
        assert state_path() is None


@pytest.mark.parametrize(("text", "seconds"), [("4", 4.0), ("0.5", 0.5), (".5", 0.5), ("1e3", 1000.0), ("0", 0.0)])
def test_seconds_are_numbers(monkeypatch, text, seconds):
    monkeypatch.setenv("SERKET_LINGER_SECONDS", text)
    assert linger_seconds() == seconds


def test_paths_are_meant_from_the_current_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERKET_STATE_DIR", "state")
    assert state_path() == tmp_path / "state"


def test_a_mode_that_ray_takes_for_no_authentication_is_not_passed_on():
    """Ray takes every value but "token" for "disabled", an empty one included."""
    environment = {**os.environ, "RAY_AUTH_MODE": ""}
    code = "import runner, os; print(os.environ['RAY_AUTH_MODE'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "token"


@pytest.mark.parametrize("arguments", [["run", "absent.yaml"], ["inspect", "absent"], ["modules"]])
def test_a_command_ends_with_status_2_before_it_does_anything(arguments, tmp_path):
    environment = {**os.environ, "SERKET_LINGER_SECONDS": "abc"}
    serket = Path(sys.executable).with_name("serket")
    done = subprocess.run([serket, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "serket: SERKET_LINGER_SECONDS is 'abc', expected a number from 0 to 1e+09; correct it, or unset it\n"
    )
