"""Result files of the right types with hostile values: shown, or refused in one line."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from kvmharness import curves, results, tables
from kvmharness.errors import UsageError
from kvmharness.summary import summarise
from tests.samples import made_up_run

GOOD = json.loads(results.encode(made_up_run()))

WEIRD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.sampled_from(["", "[/bold]x", "<script>", "\x1b[31m", "a\nb", "é" * 300]),
    st.just([]), st.just({}), st.just([0.0, 0.0]), st.just([1e308] * 30),
)  # fmt: skip


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document, containers too."""
    found = [path] if path else []
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found += leaves(value, (*path, key))
    return found


PATHS = leaves(GOOD)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(PATHS), value=WEIRD)
def test_any_value_anywhere(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(GOOD))
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file = tmp_path / "hostile.json"
    file.write_text(json.dumps(data))
    out = Console(file=io.StringIO(), width=tables.WIDTH)
    with contextlib.suppress(UsageError):  # anything else fails the test
        run = results.read(file)
        summarise(run)
        tables.show(run, out)
        curves.show(run, out)
