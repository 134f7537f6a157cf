"""Whatever the files and the options of a command hold, it answers, or says in one line of its own words why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import assert_answered_or_refused, empty_folder, outcome
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

DTYPES = (
    "u1", "i1", "u2", ">i4", "i8", "u8", "f2", "<f4", ">f4", "f8", ">f8", "longdouble", "bool", "c8", "S3", "U2",
    "M8[s]",
)  # fmt: skip
TENSOR_DTYPES = (
    torch.uint8, torch.int8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64, torch.complex64,
)  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NAMES = st.sampled_from(["x", "t", "labels", "y", "points", "targets", "", "a b", "\N{GREEK SMALL LETTER PHI}"])
NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 255.0, 1e4, 1e30, 1e200, 1e-40, np.nan, np.inf, -np.inf, -100.0, 3.0])


@st.composite
def arrays(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES) -> np.ndarray:
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(shapes)
    if dtype.kind in "SUM":
        return np.zeros(shape, dtype)
    values = np.array(draw(hnp.arrays(np.float64, shape, elements=NUMBERS)))
    with np.errstate(all="ignore"):
        return values.astype(dtype)


@st.composite
def tensors(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES) -> torch.Tensor:
    dtype = draw(st.sampled_from(TENSOR_DTYPES))
    return torch.from_numpy(draw(hnp.arrays(np.float64, draw(shapes), elements=NUMBERS))).to(dtype)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, Any]:
    """Return a suffix and what a file of it holds: bytes, one array, or several of them by name."""
    suffix = draw(
        st.sampled_from([".npy", ".npz", ".safetensors", ".idx", ".bin", ".zip", ".pt", ".tar", ".h5", ".txt", ""])
    )
    if suffix == ".npy" and draw(st.booleans()):
        return suffix, draw(arrays())
    if suffix in (".npz", ".safetensors") and draw(st.integers(0, 3)):
        held = arrays if suffix == ".npz" else tensors
        if draw(st.booleans()):
            return suffix, draw(st.dictionaries(NAMES, held(), max_size=3))
        # as many labels and times as samples
        count = draw(st.integers(1, 5))
        parts = {"labels": held(st.just((count,))), "t": held(st.just((count,)))}
        return suffix, draw(st.fixed_dictionaries({"x": held(st.just((count, 3, 4)))}, optional=parts))
    starts = {
        ".npy": b"\x93NUMPY\1\0",
        ".npz": b"PK\3\4",
        ".idx": b"\0\0\10\1",
        ".safetensors": b"\2" + bytes(7) + b"{}",
        ".pt": b"\x80\2",
        ".zip": b"PK\3\4",
        ".h5": b"\x89HDF\r\n\x1a\n",
    }
    return suffix, draw(st.sampled_from([b"", starts.get(suffix, b"")])) + draw(st.binary(max_size=64))


def write(stem: str, held: tuple[str, Any]) -> Path:
    suffix, content = held
    path = Path(f"{stem}{suffix}")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict) and suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


def write_sound() -> None:
    """Write 30 labelled samples, wider ones for an index, and queries of the former."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 3, 4, generator=generator)
    save_file({"points": points, "labels": torch.arange(30) % 3}, "data.safetensors")
    np.save("wide.npy", torch.randn(100, 60, generator=generator).numpy())
    np.savez(
        "in.npz", x=points[:4].numpy(), t=np.array([0.1, 0.2, 0.3, 0.4], ">f8"), labels=np.array([0, 1, 2, -1], ">i4")
    )
    Path("folder").mkdir()
    Path("text").write_text("words")


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(files())
@example((".safetensors", {"x": torch.zeros(4, 3), "targets": torch.arange(4)}))
@example((".npz", {"x": np.zeros((4, 3), np.int64)}))
def test_files_of_samples(held: tuple[str, Any]) -> None:
    with empty_folder():
        write_sound()
        data = write("held", held)
        assert_answered_or_refused(
            outcome("stages", "--data", data, "--queries", 2, "--times", 0.5, "--out", "o", "--no-figure")
        )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(files(), st.sampled_from(["velocity", "log_density"]))
@example((".npz", {"x": np.zeros((2, 3, 4), np.float32), "t": np.array([0.5, np.nan])}), "velocity")
def test_files_of_queries(held: tuple[str, Any], what: str) -> None:
    with empty_folder():
        write_sound()
        options = ("--data", "data.safetensors", "--what", what, *(["--t", 0.5] if held[0] == ".npy" else []))
        assert_answered_or_refused(outcome("velocity", write("held", held), "out.npz", *options))


@settings(max_examples=40)
@given(files())
def test_files_of_indexes(held: tuple[str, Any]) -> None:
    with empty_folder():
        path = write("held", held)
        assert_answered_or_refused(outcome("index", "info", path))


WORDS = st.sampled_from([
    "", "nothere", "folder", "text", "/dev/null", "/dev/null/x", "data.safetensors", "in.npz", "x" * 300, "meta", "mps",
    "xyz", "opengl", "cuda:99", "nan", "inf", "-inf", "-1,1", "1,-1", "0,1", "0,inf", "0", "-1", "-5", "1.5", "1e400",
    "99999999999999999999999", "folder/new/out.npz", "out.png", "points", "IVF4,Flat", "--json", "-x",
])  # fmt: skip
# what is quick enough to be answered many times, and the options that are given nonsense
COMMANDS: dict[str, tuple[list[object], list[str]]] = {
    "stages": (
        ["stages", "--data", "data.safetensors", "--queries", 2, "--times", 0.5, "--no-figure"],
        ["--queries", "--times", "--out", "--seed", "--count", "--range", "--device", "--data", "--data-key",
         "--labels", "--held-out", "--size", "--labels-file", "--precision", "--layout", "--format", "--per-class"],
    ),
    "velocity": (
        ["velocity", "in.npz", "out.npy", "--data", "data.safetensors"],
        ["--t", "--t-max", "--tolerance", "--batch", "--key", "--t-key", "--labels", "--index", "--data", "--what"],
    ),
    "sample": (
        ["sample", "--data", "data.safetensors", "--draw", 2, "--steps", 3, "--no-figure", "--save", "s.npy"],
        ["--draw", "--steps", "--shift", "--guidance", "--labels", "--save", "--seed", "--index", "--device"],
    ),
    "build": (
        ["index", "build", "--data", "wide.npy", "--out", "i.index", "--no-neighbours"],
        ["--out", "--index", "--append", "--count", "--seed", "--data"],
    ),
    "train-demo": (
        ["train-demo", "--data", "data.safetensors", "--steps", 1, "--bins", 1, "--draws", 2, "--width", 2,
         "--batch", 2, "--references", 2, "--no-figure"],
        ["--width", "--batch", "--references", "--bins", "--out", "--seed", "--device"],
    ),
}  # fmt: skip


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
@pytest.mark.parametrize("command", COMMANDS)
def test_options(command: str, data: st.DataObject) -> None:
    arguments, options = COMMANDS[command]
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(options), WORDS), min_size=1, max_size=2))
    with empty_folder():
        write_sound()
        assert_answered_or_refused(outcome(*arguments, *[part for pair in chosen for part in pair]))


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
    | st.sampled_from(["labels", "img-mean-std-00000000.npy", "folder\\img-mean-std-00000001.npy", "img00000001.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("labels"), inner, max_size=1), max_leaves=8,
))  # fmt: skip
def test_labels_of_latents(content: Any) -> None:
    with empty_folder():
        for number in range(2):
            np.save(f"img-mean-std-0000000{number}.npy", np.full((2, 2, 2), number, np.float32))
        Path("dataset.json").write_text(json.dumps(content))
        options = ("--queries", 2, "--times", 0.5, "--no-figure", "--out", "out")
        assert_answered_or_refused(outcome("stages", "--data", ".", *options))
