"""A bar inside of another takes its place on the terminal and gives it back."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import pytest

from oracle_engine.base.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("package", ["rich", "plain"])
def test_bars_inside_of_bars(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    if package == "rich":
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    with progress_bar("stages") as outer:
        outer(1, 4)
        with suppress(KeyError), progress_bar("decoding") as inner:
            inner(1, 2)
            raise KeyError
        with progress_bar("reading") as inner:
            inner(2, 2)
        before = len(terminal.getvalue())
        outer(4, 4)
    shown = terminal.getvalue()
    assert shown.index("stages") < shown.index("decoding") < shown.index("reading")
    assert "stages" in shown[before:]
    assert "reading" not in shown[before:]
