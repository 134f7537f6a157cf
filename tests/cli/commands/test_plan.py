"""`plan` speaks of data at hand, or of sizes alone; options of the one are refused with the other."""

from __future__ import annotations

import pytest
from command_line import assert_refused, run, run_json

SIZES = ("plan", "--samples", "1e10", "--dim", "4096")


def test_sizes_alone_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, *SIZES, "--ranks", 1172, "--queries", "1e6")
    assert facts["fits"]
    assert facts["problem"]["samples"] == 10**10
    assert facts["card"]["name"] == "h100"
    assert facts["hours"] > 0.0
    assert run(*SIZES, "--storage", "uint8", "--ranks", 3, "--card", "a100") == 0
    assert "in which they do not fit: 587 would do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`--dim` must be given with --samples", ("plan", "--samples", 10)),
        ("`--ranks` means something together with --samples only", ("plan", "--ranks", 3)),
        ("`--card` must be one of cpu", (*SIZES, "--card", "abacus")),
        ("`--storage` must be one of", (*SIZES, "--storage", "text")),
        ("`--queries` must be a whole number from 1", (*SIZES, "--queries", 0)),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], message: str, arguments: tuple[object, ...]
) -> None:
    assert_refused(capsys, message, *arguments)


@pytest.mark.parametrize("text", ["1.5", "many", "1e300", "nan", ""])
def test_counts_are_whole_numbers(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("plan", "--samples", text, "--dim", 3)
    assert f"--samples: must be a whole number such as 50000 or 1e10, not {text!r}" in capsys.readouterr().err
