"""The pages of docs/ are true: their blocks run, their commands parse, and every public name has its place."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from documents import commands, python_blocks, run_blocks

import oracle_engine
from oracle_engine import InputError, OracleDataset, OracleEngine, TopK, adapters, samplers, serving
from oracle_engine.cli.main import build_parser

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text("utf-8") for page in sorted(DOCS.rglob("*.md"))}


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "```python" in text])
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert len(python_blocks(PAGES[page])) == PAGES[page].count("```python")
    run_blocks(PAGES[page], str(DOCS / page))


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if commands(text)])
def test_the_commands_of_a_page_parse(page: str) -> None:
    for command in commands(PAGES[page]):
        assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("module", [oracle_engine, samplers, adapters, serving])
def test_every_public_name_is_documented_once(module: object) -> None:
    name, public = getattr(module, "__name__"), getattr(module, "__all__")  # noqa: B009
    told = re.findall(rf"^\.\. auto\w+:: {re.escape(name)}\.(\w+)$", PAGES["reference/api.md"], re.MULTILINE)
    assert sorted(told) == sorted(set(public) - {"__version__", "adapters", "samplers"})


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"^([\w/]+)$", PAGES["index.md"], re.MULTILINE))
    assert {f"{name}.md" for name in listed} >= set(PAGES) - {"index.md"}


def test_links_between_pages_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([\w./-]+)\)", text):
            target = (DOCS / page).parent / link
            assert target.is_file() or target.with_name(f"{target.name}.md").is_file(), (page, link)


def messages() -> dict[str, Callable[[], object]]:
    """Return what makes the library say each of the messages that the page of questions explains."""
    held, labels, x = torch.rand(20, 3, 8, 8), torch.arange(20) % 5, torch.zeros(2, 3, 8, 8)
    data = OracleDataset(held, labels)
    engine = OracleEngine(data)
    changed = torch.rand(20, 4)
    of_changed = OracleEngine(OracleDataset(changed))
    return {
        "`t` must leave some noise: sigma(t) > 0": lambda: engine.velocity(x, 1.0),
        "`labels` must be integers, or one-hot rows": lambda: engine.velocity(x, 0.5, labels=torch.full((2, 5), 0.2)),
        "`x` must have a distance to the samples that can be squared": lambda: engine.velocity(x.double() + 1e200, 0.5),
        "the values look like pictures in [0, 1]": lambda: data.value_note,
        "`mode` needs an index of the data": lambda: OracleEngine(data, mode=TopK(2)).velocity(x, 0.5),
        "`data` must stay as they were when the data set was made": lambda: (
            changed.zero_(),
            of_changed.velocity(torch.zeros(2, 4), 0.5),
        ),
    }


def test_the_messages_that_are_explained_are_those_of_the_library() -> None:
    assert re.findall(r'^\*\*"(.*?)"\*\*', PAGES["faq.md"], re.MULTILINE) == list(messages())
    for words, said in messages().items():
        try:
            found = str(said())
        except InputError as error:
            found = str(error)
        assert words in found


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason='needs pip install -e ".[docs]"')
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "velocity" in (tmp_path / "reference" / "api.html").read_text("utf-8")
