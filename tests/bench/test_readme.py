"""The README says of speed what the results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import readme
from bench.record import read_json, rows_of
from oracle_engine.base.errors import InputError
from oracle_engine.compare import floors
from oracle_engine.compare.workloads import LABELLED


def test_the_readme_agrees_with_the_results() -> None:
    for document in readme.DOCUMENTS:
        text = document.read_text("utf-8")
        assert len(readme.BEGIN.findall(text)) == text.count("<!-- bench.readme ") > 0
    assert readme.main(["--check"]) == 0, "run python -m bench.readme"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with results of digits: of each query, and of its class."""
    folder = tmp_path_factory.mktemp("results")
    rates = floors.Rates(1e10, 1e11, "torch copy", "NumPy 64 x 64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors.Rates, "measured", lambda: rates)
        options = ["--data", "digits", "--batch", "1,2", "--budget", "0"]
        plain = ["--t", ".05,mixed", "--sides", "ours,numpy", "--json", str(folder / "plain.json")]
        labelled = ["--labelled", "--t", ".05", "--sides", "ours,class-loop", "--json", str(folder / "classes.json")]
        bench.main([*options, *plain])
        bench.main([*options, *labelled])
    return folder


def document(kind: str, name: str) -> str:
    return f"# Title\n\n<!-- bench.readme {kind} {name} -->\nold words\n<!-- end of bench.readme -->\n\nkept\n"


def test_a_passage_is_made_from_its_file(measured: Path) -> None:
    found = readme.renewed(document("speed", "plain.json"), measured)
    words = " ".join(found.split())
    assert "| data | B | t = 0.05 | mixed |" in found
    assert "| digits, 1,797 x 64 uint8 | 1 | " in found
    assert "\n|  | 2 | " in found
    brief = readme.renewed(document("speed-brief", "plain.json"), measured)
    assert [line for line in found.splitlines() if line not in brief.splitlines() and line.startswith("|  | 2 | ")]
    assert "of 4 cells" in words
    assert "of 4 cells" in " ".join(brief.split())
    assert "at 10 GB/s (torch copy)" in words
    assert "Peers took, in times of the engine: numpy " in words
    assert "`bench/results/plain.json`" in words
    assert found.startswith("# Title\n")
    assert found.endswith("\n\nkept\n")
    assert "old words" not in found
    # made anew it stays as it is
    assert readme.renewed(found, measured) == found


def test_other_results_make_another_passage(measured: Path, tmp_path: Path) -> None:
    results = read_json(measured / "plain.json")
    results["rows"][0]["sides"]["ours"]["median_ms"] *= 3
    (tmp_path / "plain.json").write_text(json.dumps(results))
    before = readme.renewed(document("speed", "plain.json"), measured)
    assert readme.renewed(before, tmp_path) != before


def test_class_conditional_rows_have_a_passage_and_floors_of_their_own(measured: Path) -> None:
    found = readme.renewed(document("speed", "classes.json"), measured)
    assert "every query about its own class" in " ".join(found.split())
    plain, labelled = (rows_of(read_json(measured / name))[0] for name in ("plain.json", "classes.json"))
    assert labelled.queries == LABELLED
    assert plain.floor is not None
    assert labelled.floor is not None
    assert labelled.floor.products_ms < plain.floor.products_ms


def test_what_cannot_be_made_is_refused(measured: Path) -> None:
    with pytest.raises(InputError, match="must be one of speed"):
        readme.renewed(document("fast", "plain.json"), measured)
    with pytest.raises(InputError, match="must be a file in"):
        readme.renewed(document("speed", "none.json"), measured)


def test_check_says_whether_a_document_is_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("no passages\n")
    assert readme.main(["--check", "--document", str(path)]) == 0
    old = document("speed", next(bench.RESULTS.glob("amd-*.json")).name)
    path.write_text(old)
    assert readme.main(["--check", "--document", str(path)]) == 1
    assert path.read_text() == old
    assert readme.main(["--document", str(path)]) == 0
    assert readme.main(["--check", "--document", str(path)]) == 0
