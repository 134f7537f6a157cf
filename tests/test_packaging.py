from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

import oracle_engine
import oracle_engine.kernels

ROOT = Path(__file__).resolve().parent.parent

OPTIONAL = ["triton", "faiss", "matplotlib", "sklearn", "PIL", "rich", "safetensors", "starlette", "uvicorn"]
OPTIONAL += ["prometheus_client", "httpx", "ray"]
SERVED = ["torchcfm", "flow_matching", "torchdiffeq", "diffusers", "smalldiffusion", "accelerate", "tqdm"]

# what torch brings is not ours; what remains is this package, jaxtyping and a little of the standard library
IMPORT_PROBE = """
import json, sys
import torch
before = set(sys.modules)
import oracle_engine
# each name imports its module when it is first used
for name in oracle_engine.__all__:
    getattr(oracle_engine, name)
print(json.dumps({
    "cuda": torch.cuda.is_initialized(),
    "added": sorted(set(sys.modules) - before),
    "loaded": sorted(sys.modules),
}))
"""


def run_python(*arguments: str) -> str:
    """Return what a fresh interpreter prints, started in the root of the checkout."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def probe() -> dict[str, object]:
    """What the import of every public name brought into a fresh interpreter."""
    return dict(json.loads(run_python("-c", IMPORT_PROBE)))


@pytest.mark.parametrize("package", OPTIONAL)
def test_import_leaves_optional_packages_alone(probe: dict[str, list[str]], package: str) -> None:
    assert package not in probe["loaded"]


def test_adapters_import_none_of_the_libraries_they_serve() -> None:
    code = "import sys, torch; before = set(sys.modules); import oracle_engine.adapters; "
    code += f"print(sorted(set({SERVED!r}) & (set(sys.modules) - before)))"
    assert run_python("-c", code).strip() == "[]"


def test_import_does_not_initialise_cuda(probe: dict[str, bool]) -> None:
    assert probe["cuda"] is False


def test_import_adds_few_modules_to_those_of_torch(probe: dict[str, list[str]]) -> None:
    foreign = [name for name in probe["added"] if name.split(".")[0] != "oracle_engine"]
    # 10 at the time of writing, most of them jaxtyping's own; one heavy package more would bring hundreds
    assert len(foreign) < 40, foreign


def test_setup_says_the_version_that_the_package_says() -> None:
    pytest.importorskip("setuptools")
    assert run_python("setup.py", "--quiet", "--version").strip() == oracle_engine.__version__


def test_every_folder_of_modules_is_installed() -> None:
    pytest.importorskip("setuptools")
    code = "import setuptools, distutils.core as core; print(*core.run_setup('setup.py', stop_after='init').packages)"
    listed = set(run_python("-c", code).split())
    found = {path.parent for path in (*ROOT.glob("oracle_engine/**/__init__.py"), *ROOT.glob("kernels/**/__init__.py"))}
    names = {".".join(path.relative_to(ROOT).parts) for path in found}
    assert listed == {f"oracle_engine.{name}" if name.startswith("kernels") else name for name in names}


def test_types_are_told_apart_by_tuples_which_torch_can_trace() -> None:
    # torch before 2.10 cannot compile code that asks isinstance(value, int | float)
    unions = [
        f"{path}:{node.lineno}"
        for folder in ("oracle_engine", "kernels")
        for path in ROOT.joinpath(folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("isinstance", "issubclass")
        and any(isinstance(argument, ast.BinOp) for argument in node.args)
    ]
    assert unions == []


def test_the_package_is_marked_as_typed() -> None:
    assert resources.files("oracle_engine").joinpath("py.typed").is_file()


def test_kernels_are_imported_from_the_top_level_folder() -> None:
    assert (ROOT / "oracle_engine" / "kernels").resolve() == ROOT / "kernels"
    assert Path(str(oracle_engine.kernels.__file__)).resolve().parent == ROOT / "kernels"
    assert oracle_engine.kernels.__name__ == "oracle_engine.kernels"


def test_annotations_are_checked_while_the_tests_run() -> None:
    with pytest.raises(TypeCheckError):
        oracle_engine.kernels.merge(1, 2)  # type: ignore[arg-type]
