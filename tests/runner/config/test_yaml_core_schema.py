"""Plain values of model files and ``--set`` are those of the core schema of YAML 1.2."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.graph.registry import make_parameters, validated_parameters
from actors.modules.mlda.mlda import MLDA
from runner.config.run_config import ConfigError, load_config
from runner.config.yaml_io import dump, parse, split_override

MODEL = """
name: a
data: {source: cycle}
modules: {vae: {type: vae, latent_dim: 2}, mlda: {type: mlda, topics: 2}}
connections: [data -> vae, data -> mlda]
schedule: {rounds: 2}
"""

# Section 10.3.2 of the specification (https://yaml.org/spec/1.2.2/#1032-tag-resolution), with its own examples.
VALUES = {
    "null": None, "Null": None, "NULL": None, "~": None, "": None, "nUll": "nUll", "none": "none",
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False, "tRUE": "tRUE",
    "yes": "yes", "no": "no", "on": "on", "off": "off", "Yes": "Yes", "NO": "NO", "y": "y", "n": "n",
    "0": 0, "-0": 0, "3": 3, "-19": -19, "+12": 12, "0o7": 7, "0o10": 8, "0x3A": 58, "0x1F": 31,
    "0xdeadbeef": 0xDEADBEEF,
    "0o8": "0o8", "0xG": "0xG", "0b11": "0b11", "1_000": "1_000", "0x_1": "0x_1", "1:30": "1:30",
    "190:20:30": "190:20:30",
    "1e3": 1000.0, "1E3": 1000.0, "12e03": 12000.0, "-2E+05": -200000.0, "1e-3": 0.001, "0.": 0.0, "-0.0": -0.0,
    ".5": 0.5,
    "+.5": 0.5, "1.": 1.0, "1.e2": 100.0, "685.230_15": "685.230_15", "1.5:30": "1.5:30", "5e": "5e", ".": ".",
    "e5": "e5",
    ".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf, ".NAN": math.nan, ".nan": math.nan, "inf": "inf",
    "nan": "nan",
    "2024-01-01": "2024-01-01", "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00", "=": "=",
}  # fmt: skip

LEADING_ZEROS = ["010", "-010", "+07", "00", "08", "00.5", "01e3"]
"""Numbers in YAML 1.2 too, but others (octal) in 1.1; they stay texts, which no number accepts."""


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_plain_value_is_what_the_core_schema_says(text: str, value: Any) -> None:
    assert same(parse(f"key: {text}", "m")["key"], value)
    assert same(split_override(f"key={text}")[1], value)


@pytest.mark.parametrize("text", LEADING_ZEROS)
def test_a_number_with_leading_zeros_stays_a_text(text: str) -> None:
    assert parse(text, "m") == text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), inner),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_json_is_read_as_json(value: Any) -> None:
    text = json.dumps(value)
    assert parse(text, "m") == json.loads(text)
    assert parse(dump(value), "m") == value


@pytest.mark.parametrize("text", [*VALUES, *LEADING_ZEROS])
def test_texts_are_written_so_that_readers_of_either_version_take_them_for_texts(text: str) -> None:
    written = dump({"key": text})
    assert parse(written, "m") == {"key": text}
    assert yaml.safe_load(written) == {"key": text}


REFUSED = {
    "modules.vae.learning_rate=true": "modules.vae.learning_rate: expected a number above 0, got true",
    "modules.vae.itr=True": "modules.vae.itr: expected an integer of at least 0, got true",
    "modules.vae.epochs=1:30": "got '1:30'; write one number, as this is neither minutes nor seconds",
    "modules.vae.epochs=1_000": "got '1_000'; write the number without '_'",
    "modules.vae.epochs='1_0'": "got '1_0'; write the number without '_'",
    "modules.vae.epochs='010'": "got '010'; write the number without leading zeros",
    "seed='10'": "got '10'; write the number without quotes",
    "modules.vae.send_variance=yes": "expected true or false, got 'yes'; in YAML 1.2 only true and false",
    "modules.vae.send_variance=1": "expected true or false, got 1",
    "modules.mlda.weights={data: true}": "modules.mlda.weights.data: expected a valid integer, got true",
    "seed=010": "got '010'; write the number without leading zeros (octal numbers begin with 0o)",
    "seed=true": "seed: expected an integer of at least 0",
    "schedule.rounds=0b11": "got '0b11'; write the number in decimal",
    "schedule.tolerance=1,5": "got '1,5'; write the number with a decimal point",
    "recovery.wait=2024-01-01": "recovery.wait: expected a number above 0, got '2024-01-01'",
    "schedule.rounds=off": "schedule.rounds: expected an integer of at least 1, got 'off'",
    "schedule.steps=[{module: vae, set: {epochs: true}}]": "schedule.steps.0.set.epochs: expected an integer",
}


@pytest.mark.parametrize(("override", "message"), REFUSED.items())
def test_what_is_no_number_is_refused_where_a_number_is_meant(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(MODEL)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "m.yaml", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("modules.vae.learning_rate=1e-3", lambda config: config.modules["vae"].parameters["learning_rate"] == 0.001),
        ("modules.vae.epochs=1e1", lambda config: config.modules["vae"].parameters["epochs"] == 10),
        ("seed=0o10", lambda config: config.seed == 8),
        ("seed=0x1F", lambda config: config.seed == 31),
        ("name=yes", lambda config: config.name == "yes"),
        ("name=010", lambda config: config.name == "010"),
        ("name=2024-01-01", lambda config: config.name == "2024-01-01"),
    ],
)
def test_numbers_and_names_are_read(tmp_path: Path, override: str, read: Any) -> None:
    (tmp_path / "m.yaml").write_text(MODEL)
    config = load_config(tmp_path / "m.yaml", [override])
    assert read(config)
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


def test_parameters_from_scripts_keep_their_types_too() -> None:
    made = validated_parameters(
        "vae", {"itr": np.int64(3), "learning_rate": np.float32(0.5), "send_variance": np.True_}
    )
    assert (made["epochs"], made["learning_rate"], made["send_variance"]) == (3, 0.5, True)
    for wrong in ({"itr": True}, {"itr": np.True_}, {"learning_rate": "0_5"}, {"send_variance": 1}):
        with pytest.raises(ValueError, match=r"valid (integer|number|boolean)"):
            validated_parameters("vae", wrong)
    assert make_parameters(MLDA, {"classes": 4.0, "weights": {"a": 3}}).topics == 4
