"""The package imports its names when they are first used, and the tables of names agree with one another."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import oracle_engine

ROOT = Path(__file__).resolve().parent.parent
# where it is installed
PACKAGE = Path(str(oracle_engine.__file__)).parent


def run_python(code: str) -> str:
    """Return what a fresh interpreter prints, started in the root of the checkout."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def imports_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that the block `if TYPE_CHECKING` of the package imports."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    found = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in found for name in node.names}


def test_the_import_of_the_package_brings_no_torch() -> None:
    code = "import sys, oracle_engine; print(sorted({'torch', 'numpy'} & set(sys.modules)), oracle_engine.__version__)"
    assert run_python(code) == f"[] {oracle_engine.__version__}"


def test_a_name_is_kept_after_its_first_use() -> None:
    code = "import oracle_engine as oe; held = 'VP' in vars(oe); oe.VP; print(held, vars(oe)['VP'] is oe.VP)"
    assert run_python(code) == "False True"


def test_subpackages_are_attributes_of_the_package() -> None:
    code = "import oracle_engine as oe; print(oe.samplers.METHODS.keys() and oe.adapters.CONVENTIONS.keys() and 1)"
    assert run_python(code) == "1"
    assert run_python("import oracle_engine; print(*oracle_engine.paths.PATHS)").startswith("rectified_flow gvp ")
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(dir(oracle_engine))
    assert all(getattr(oracle_engine, folder).__name__ == f"oracle_engine.{folder}" for folder in folders)


def test_every_public_name_can_be_used_and_listed() -> None:
    assert len(set(oracle_engine.__all__)) == len(oracle_engine.__all__)
    for name in oracle_engine.__all__:
        assert getattr(oracle_engine, name) is not None
        assert name in dir(oracle_engine)
    assert run_python("from oracle_engine import *; print(analyse.__name__, samplers.__name__)") == (
        "analyse oracle_engine.samplers"
    )


def test_type_checkers_see_the_names_that_are_imported_later() -> None:
    seen = imports_for_type_checkers()
    subpackages = {name for name, module in seen.items() if not module}
    assert {name: module for name, module in seen.items() if module} == oracle_engine._MODULES
    loaded = {"DataFileError", "DistributedError", "InputError", "MissingDependencyError", "OracleError", "__version__"}
    assert set(oracle_engine.__all__) == {*oracle_engine._MODULES, *subpackages, *loaded}


def test_an_unknown_name_is_an_attribute_error_in_the_usual_words() -> None:
    with pytest.raises(AttributeError, match=r"^module 'oracle_engine' has no attribute 'oracle'$"):
        oracle_engine.oracle  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'oracle'"):
        exec("from oracle_engine import oracle")
    assert not hasattr(oracle_engine, "__wrapped__")


def test_public_objects_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(oracle_engine.InputError("wrong")))
    assert (type(error), error.args) == (oracle_engine.InputError, ("wrong",))
    for held in (oracle_engine.VP(beta_max=10.0), oracle_engine.TopK(3), oracle_engine.Guidance(2.0)):
        assert pickle.loads(pickle.dumps(held)) == held
    assert pickle.loads(pickle.dumps(oracle_engine.analyse)) is oracle_engine.analyse
