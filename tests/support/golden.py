"""Text held against a file of tests/golden/, which `pytest --update-golden` writes anew."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE = "KVMHARNESS_UPDATE_GOLDEN"


def same_as_golden(name: str, text: str) -> None:
    """Assert that the file holds the text; with --update-golden make it so, for git to show."""
    path = GOLDEN / name
    if os.environ.get(UPDATE):
        path.write_text(text)
    assert text == path.read_text()
