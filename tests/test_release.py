"""What is written about a release in several places agrees."""

from __future__ import annotations

import re
from pathlib import Path

from oracle_engine import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_the_citation_names_the_version() -> None:
    found = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    assert found[1] == __version__


def test_readme_names_the_files_beside_it() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name in ("CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"):
        assert f"`{name}`" in text
        assert (ROOT / name).is_file()
