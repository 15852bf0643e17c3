"""Model files and ``--set`` made to take long, to take memory, or to end in a traceback: one sentence for each."""

import os
import re
import threading
from pathlib import Path

import pytest

from actors.errors import ModuleError
from actors.limits import MAX_CONFIG_BYTES, MAX_MODULES, MAX_REPORTED_PROBLEMS
from runner.config import error_messages, yaml_io
from runner.config.run_config import ConfigError, load_config
from runner.config.sections import _is_label_key, _is_label_selector, _parse_bytes
from tests.support.bounded import Watched, bounded

MODEL = (
    "name: a\ndata: {source: cycle}\nmodules: {gmm: {type: gmm, classes: 4}}\n"
    "connections: [data -> gmm]\nschedule: {rounds: 2}\n"
)
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def refusal(path: Path, text: str, *overrides: str) -> str:
    """Return the error of a model file, which must come soon, take little memory, and be fit for a terminal."""
    (path / "m.yaml").write_text(text)

    def load() -> str:
        with pytest.raises((ConfigError, ModuleError)) as caught:
            load_config(path / "m.yaml", overrides)
        return str(caught.value)

    message = Watched()(load)
    assert not RAW.search(message)
    assert len(message) < 80_000
    return message


def doubled(first: str, rest: str) -> str:
    """Return aliases of aliases: each of 25 keys stands for twice what the one before stands for."""
    return f"k0: &k0 {first}\n" + "".join(f"k{n}: &k{n} {rest.replace('*', f'*k{n - 1}')}\n" for n in range(1, 26))


ALIASES = {
    "lists": doubled("[x, x]", "[*, *]"),
    "maps": doubled("{a: x}", "{a: *, b: *}"),
    "merged maps": doubled("{a: 1, b: 2}", "{<<: [*, *]}"),
    "one long text": f"k0: &k0 {'x' * 10_000}\nk1: [{', '.join(['*k0'] * 1000)}]\n",
}


@pytest.mark.parametrize("text", ALIASES.values(), ids=ALIASES)
def test_aliases_count_in_full(tmp_path: Path, text: str) -> None:
    assert "aliases counted in full" in refusal(tmp_path, text)


@pytest.mark.parametrize("value", ["&a [*a]", "&a {x: *a}", "&a {<<: *a}", "&a [[{x: [*a]}]]", "&a {<<: [{x: 1}, *a]}"])
def test_what_contains_itself_is_refused(tmp_path: Path, value: str) -> None:
    assert "the alias *a is within what it stands for" in refusal(tmp_path, f"{MODEL}code: {value}\n")


def test_merge_keys_are_read(tmp_path: Path) -> None:
    text = MODEL.replace("{gmm: {", "{gmm: &g {").replace("4}}", "4}, other: {<<: *g, classes: 3}, 3: {<<: *g}}")
    (tmp_path / "m.yaml").write_text(text.replace("> gmm]", "> gmm, data -> other, data -> 3]").replace("3:", "m3:"))
    with pytest.raises(ConfigError, match="unknown module, expected one of data, gmm, other, m3, got '3'"):
        load_config(tmp_path / "m.yaml")
    assert yaml_io.parse("{a: &a {3: x}, b: {<<: *a}, 4: y}", "m") == {"a": {"3": "x"}, "b": {"3": "x"}, "4": "y"}


LARGE = {
    "bytes": ("# comment\n" * (MAX_CONFIG_BYTES // 10 + 1), "is larger than"),
    "unknown keys": (MODEL + "".join(f"nane{n}: 1\n" for n in range(20_000)), "more than 8,000 values"),
    "depth": (f"{MODEL}code: {'[' * 100_000}", "are within each other"),
    "depth of maps": (f"{MODEL}code: {'{a: ' * 10_000}", "are within each other"),
    "depth of blocks": (MODEL + "code:\n" + "".join(" " * n + "-\n" for n in range(1, 400)), "are within each other"),
    "connections": (MODEL.replace("data ->", "data -> gmm, " * 3000 + "data ->"), "there are more than 2,000"),
    "a chain": (MODEL.replace("data -> gmm", "data -> gmm" + " -> data -> gmm" * 5000), "there are more than 2,000"),
    "modules": (MODEL.replace("{gmm:", "{" + "".join(f"m{n}: {{type: x}}, " for n in range(MAX_MODULES)) + "gmm:"),
                f"there are more than {MAX_MODULES}"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), LARGE.values(), ids=LARGE)
def test_a_model_file_that_is_too_large_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_the_first_of_many_problems_are_reported_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr(
        error_messages.difflib, "get_close_matches", lambda *args, **kwargs: compared.append(args) or []
    )
    places = {
        "keys": MODEL + "".join(f"nane{n}: 1\n" for n in range(3500)),
        "parameters": MODEL.replace("4}", "4, " + ", ".join(f"clases{n}: 1" for n in range(3500)) + "}"),
        "steps": MODEL.replace("2}", f"2, steps: [{', '.join(f'gm{n}' for n in range(7000))}]}}"),
        "settings of steps": MODEL.replace("2}", f"2, steps: [{', '.join(['{module: gmm, set: {x: 1}}'] * 1000)}]}}"),
        "connections": MODEL.replace("[data", "[" + ", ".join(f"dta -> gm{n}" for n in range(900)) + ", data"),
        "types": MODEL.replace("{gmm:", "{" + "".join(f"m{n}: {{type: gm{n}}}, " for n in range(190)) + "gmm:"),
        "groups": f"{MODEL}cluster: {{together: [{', '.join(f'[gm{n}, gm]' for n in range(2000))}]}}\n",
        "labels": f"{MODEL}cluster: {{modules: {{{', '.join(f'gm{n}: {{}}' for n in range(2000))}}}}}\n",
    }
    for name, text in places.items():
        compared.clear()
        lines = refusal(tmp_path, text).splitlines()
        assert len(lines) == MAX_REPORTED_PROBLEMS + (lines[-1].startswith("and ")), name
        assert len(compared) < 10 * MAX_REPORTED_PROBLEMS, name


def test_long_names_are_compared_with_none(tmp_path: Path) -> None:
    assert "did you mean" not in refusal(tmp_path, f"{MODEL}{'schedule' * 20}: 1\n")


ODD = [
    '!!int ""', '!!float ""', "!!bool x", "!!int x", "!!timestamp x", "!!binary x", "!!set {a}", "!!omap [a]", "!!pairs [a]",
    "!!python/name:os.system", "!x y", '"\\0"', '"\\e[31m"', '"\\x9b"', '"\\ud800"', "{[a]: b}", "{{a: b}: c}", "? [a]",
    "{&a [x]: 1}", "9" * 5000, "0x" + "f" * 5000, "-" + "9" * 99, "0b" + "1" * 90, "1:" * 2000 + "1", "1" * 50_000,
    "1e400", "-.inf", ".nan", "1" * 3000 + "." * 300, "2001-13-45", "2001-01-01", "=", "<<", "{<<: 3}", "*x", "%", "@", "`",
    "'", "{a: 1, a: 2}", "\x07", "\x1b[31m", "\ufffe", "[" * 200, "- - - -" * 100, "!!int " + "9" * 200, "!!null x", "a: b: c",
]  # fmt: skip


@pytest.mark.parametrize(
    "key", ["seed", "name", "data.count", "modules.gmm.classes", "recovery.wait", "schedule.rounds"]
)
@pytest.mark.parametrize("value", ODD, ids=[ascii(value[:20]) for value in ODD])
def test_an_odd_value_is_refused_in_one_sentence(tmp_path: Path, key: str, value: str) -> None:
    if key == "name" and value in ("2001-13-45", "2001-01-01", "0b" + "1" * 90):
        pytest.skip("names in YAML 1.2")
    message = refusal(tmp_path, MODEL, f"{key}={value}")
    assert "Traceback" not in message
    assert message.count("\n") == 0


PATHS = ["a\\0b", "~nobody-has-this-name/x", "~\\0/x", "x" * 5000, "\\e]0;x\\a", "\\ud800", "x/" * 3000]


@pytest.mark.parametrize("key", ["code", "data", "checkpoints.storage", "modules.gmm.type"])
@pytest.mark.parametrize("value", PATHS, ids=[ascii(value[:10]) for value in PATHS])
def test_an_odd_path_is_refused_in_one_sentence(tmp_path: Path, key: str, value: str) -> None:
    given = {"code": f'["{value}"]', "data": f'{{source: cycle, observations: "{value}"}}'}.get(key, f'"{value}"')
    if key == "checkpoints.storage" and value.startswith(("~nobody", "x/")) and len(value) < 4096:
        pytest.skip("a valid path")
    refusal(tmp_path, MODEL, f"{key}={given}")


OVERRIDES = [
    "=1", "a", "a..b=1", "a." * 1000 + "b=1", "\x1b[31m=1", "modules.\x1b.x=1", "modules.gmm.\u202e=1", "\ud800=1", "name\0=x",
    "connections.-1=1", "connections.²=1", "connections." + "9" * 5000 + "=1", "connections.99999=x", "connections.0.x=1",
    "seed.x=1", "nothing=1", "seed=" + "[" * 100_000, "seed=" + "{a: " * 3000, "seed=" + "- " * 5000, "x" * 300_000 + "=1",
    "seed=" + "x" * 300_000, "seed=&a [*a]", "connections.0x0=1", "seed=---\n---\n", "modules.nothing.x=1",
]  # fmt: skip


@pytest.mark.parametrize("override", OVERRIDES, ids=[ascii(override[:20]) for override in OVERRIDES])
def test_an_odd_override_is_refused_in_one_sentence(tmp_path: Path, override: str) -> None:
    refusal(tmp_path, MODEL, override)


def test_keys_are_shown_with_escapes_and_shortened(tmp_path: Path) -> None:
    message = refusal(tmp_path, f'{MODEL}"na\\u202eme\\n{"x" * 500}": 1\n')
    assert message.startswith("na\\u202eme\\nxxx")
    assert len(message.split(": unknown key")[0]) <= 100


# --- patterns -----------------------------------------------------------------------------------------------------

SELECTORS = ["a." * 40 + "-", "a" * 80 + "!", "in(" + "a, " * 100 + "-)", "in(" + "a." * 5000 + ")", "!" * 10_000]


@pytest.mark.parametrize("text", SELECTORS, ids=[text[:8] for text in SELECTORS])
def test_labels_are_matched_in_linear_time(text: str) -> None:
    assert not bounded(lambda: _is_label_selector(text), seconds=0.05)
    assert not bounded(lambda: _is_label_key(f"{text}/x"), seconds=0.05)
    assert not bounded(lambda: _is_label_key(f"x/{text}"), seconds=0.05)


def test_labels_that_kubernetes_allows_are_valid() -> None:
    assert all(map(_is_label_key, ["a", "a.b_c-d", "ray.io/accelerator-type", "x.y-z.io/A_b.c", "a" * 63]))
    assert not any(map(_is_label_key, ["", "-a", "a-", "/a", "a/", "a/b/c", "a..b/c", "a" * 64, ".a/b", "ä"]))
    assert all(map(_is_label_selector, ["a", "!a", "in(a)", "in(a, b)", "!in(a,b,  c)", "A100-80G"]))
    assert not any(map(_is_label_selector, ["in()", "in(a", "!!a", "in(a,)", "in(a; b)", "a b", "!"]))


def test_sizes_of_memory_are_matched_in_linear_time() -> None:
    assert _parse_bytes(" 2 GiB ") == 2 << 30
    for text in ("1" + " " * 100_000 + "!", "9" * 400 + " TiB", "1" * 100_000):
        assert bounded(lambda text=text: _parse_bytes(text), seconds=0.05) is None


# --- files --------------------------------------------------------------------------------------------------------


def test_a_pipe_is_read_but_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.yaml")
    with pytest.raises(ConfigError, match="got nothing"):
        bounded(lambda: load_config(tmp_path / "m.yaml"))  # no process writes
    reader, writer = os.pipe()
    late = threading.Timer(0.2, lambda: (os.write(writer, MODEL.encode()), os.close(writer)))
    late.start()
    assert load_config(Path(f"/dev/fd/{reader}")).name == "a"
    late.join()
    os.close(reader)


def test_an_endless_or_silent_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is larger than"):
        load_config(Path("/dev/zero"))
    os.mkfifo(tmp_path / "m.yaml")
    held = os.open(tmp_path / "m.yaml", os.O_RDWR)
    monkeypatch.setattr(yaml_io, "PIPE_SECONDS", 0.1)
    with pytest.raises(ConfigError, match=r"cannot be read as a text file \(it sent nothing for 0.1 s\)"):
        load_config(tmp_path / "m.yaml")
    os.close(held)


def test_a_model_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    modules = "".join(f"m{n}: {{type: gmm, classes: 4}}, " for n in range(190))
    links = "".join(f"data -> m{n}, " for n in range(190))
    text = MODEL.replace("{gmm:", "{" + modules + "gmm:").replace("[data", f"[{links}data")
    (tmp_path / "m.yaml").write_text(text)
    config_text = ""
    try:
        config_text = load_config(tmp_path / "m.yaml").to_yaml()
    except ConfigError as error:
        assert "with all defaults filled in" in str(error)
    if config_text:
        (tmp_path / "config.yaml").write_text(config_text)
        load_config(tmp_path / "config.yaml")
