"""What the documents list is what there is."""

from pathlib import Path
from typing import get_args

from actors.messaging.kinds import BUILT_IN, KINDS, Semantics

PLUGINS = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_the_kinds_of_message_are_told_with_their_arrays():
    rows = [f"| `{name}` | {KINDS[name]} |" for name in KINDS if name in BUILT_IN]
    assert [row for row in rows if row not in PLUGINS.splitlines()] == []


def test_every_semantics_is_told():
    told = PLUGINS.partition("| semantics |")[2]
    assert [word for word in get_args(Semantics) if f"`{word}`" not in told] == []
