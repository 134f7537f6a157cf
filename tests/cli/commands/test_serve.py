"""`oracle-engine serve`: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused

from oracle_engine.cli.main import build_parser
from oracle_engine.cli.serve_models import named_engines

SERVE_DIGITS = ["serve", "--data", "digits", "--count", "20"]


@contextmanager
def serving(*options: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Yield the process of a server that listens, its address, and what it said."""
    command = [sys.executable, "-m", "oracle_engine", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environ) as process:
        try:
            assert process.stdout is not None
            words: list[str] = []
            while not words or "curl" not in words[-1]:
                words.append(process.stdout.readline())
                assert words[-1], "the server has ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", words[0])
            assert found is not None
            yield process, found[0], words
        finally:
            process.kill()


def test_a_model_is_served_until_the_signal_and_the_curl_line_works(tmp_path: Path) -> None:
    with serving("--data", "digits", "--count", "20", "--lame-duck", "0.2") as (process, _, words):
        line = words[-1].strip()
        done = subprocess.run(["bash", "-c", f"{line} --silent --retry 9"], capture_output=True, text=True, check=True)
        assert '"name":"velocity","datatype":"FP32","shape":[1,1,8,8]' in done.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_several_models_come_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", torch.randn(30, 4).numpy())
    file = tmp_path / "models.toml"
    file.write_text(
        '[models.digits]\ndata = "digits"\ncount = 20\nguidance = 2\n'
        '[models.points]\ndata = "points.npy"\npath = "gvp"\n'
    )
    engines = named_engines(build_parser().parse_args(["serve", "--config", str(file)]))
    assert {name: (len(engine.data), scale) for name, (engine, scale) in engines.items()} == {
        "digits": (20, 2),
        "points": (30, None),
    }
    assert repr(engines["points"][0].path) == "GVP()"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "expected a TOML file with tables [models.NAME]"),
        ("models = 3", "expected a TOML file with tables [models.NAME]"),
        ("[models.a]\n", "expected a table [models.a] with data"),
        ('[models.a]\ndata = "digits"\ncolour = 1', "found colour = 1"),
        ('[models.a]\ndata = "digits"\ncount = true', "found count = True"),
        ('[models.a]\ndata = "digits"\npath = "road"', "a path among rectified_flow"),
        ('[models.a]\ndata = "digits"\nrange = [1]', "a range of two numbers"),
        ('[models."a b"]\ndata = "digits"', "names of letters"),
    ],
)
def test_files_that_cannot_be_understood_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    assert_refused(capsys, words, "serve", "--config", file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "`--host` must be this machine's own without a token in ORACLE_TOKEN"),
        (["--host", "example.org"], "`--host` must be this machine's own"),
        (["--name", "a/b"], "`--name` must be letters, digits"),
        (["--port", "70000"], "`--port` must be a port, 0 to 65535"),
        (["--max-body", "0"], "`--max-body` must be above 0"),
        (["--timeout", "nan"], "`--timeout` must be above 0"),
        (["--max-queue", "10"], "`--max-queue` must be at least --max-rows, 4096"),
        (["--lame-duck", "-1"], "`--lame-duck` must be seconds"),
        (["--data", "nothing.npy"], "nothing.npy"),
    ],
)
def test_what_cannot_be_served_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert_refused(capsys, words, *SERVE_DIGITS, "--port", "0", *options)


@pytest.mark.parametrize(
    ("module", "again", "package"),
    [
        ("starlette.applications", "app", "starlette"),
        ("prometheus_client", "metrics", "prometheus-client"),
        ("uvicorn", "process", "uvicorn"),
    ],
)
def test_a_missing_library_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str, again: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in {again, "app", "process"}:
        monkeypatch.delitem(sys.modules, f"oracle_engine.serving.{name}", raising=False)
    assert_refused(capsys, f"needs the package `{package}`", *SERVE_DIGITS, "--port", "0")


def test_a_port_in_use_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as held:
        assert_refused(capsys, "`--port` must be free", *SERVE_DIGITS, "--port", str(held.getsockname()[1]))
