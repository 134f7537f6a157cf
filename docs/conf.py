"""How the site is built: `make docs`."""

from __future__ import annotations

import re
from typing import Any

from oracle_engine import __version__

project = "Oracle velocity engine"
author = "the authors of the oracle velocity engine"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"Oracle velocity engine {version}"
html_copy_source = False
exclude_patterns = ["results"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

# how a docstring begins what it says of an argument, "x:" or "labels, guidance:", or a point of a list
ARGUMENT = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*: |- ")

# an argument on the line of the one before it
ITEM = re.compile(r"\. ([a-z_]\w*(?:, [a-z_]\w*)*: )")


def setup(app: Any) -> None:
    """Lay out the docstrings, which are plain text with names and a colon, as Sphinx wants them."""
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-skip-member", skipped)


def skipped(_app: Any, _kind: str, _name: str, held: Any, skip: bool, _options: Any) -> bool:
    """Return whether a member is left out: the fields of a data class are told by the docstring of their class."""
    return skip or not (callable(held) or isinstance(held, (property, classmethod, staticmethod)))


def plain_docstring(_app: Any, _kind: str, _name: str, _held: Any, _options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, in place: a list of the arguments, and examples as code.

    lines: of the docstring.
    """
    out: list[str] = []
    inside = ""  # what the last line belonged to: "", "item" or "example"
    for line in ITEM.sub(r".\n\1", "\n".join(lines)).split("\n"):
        if line.startswith(">>> ") or (inside == "example" and line.strip()):
            out += [] if inside == "example" else ["", ".. code-block:: pycon", ""]
            out.append(f"    {line}")
            inside = "example"
        elif ARGUMENT.match(line):
            text = _escaped(line.removeprefix("- "))
            out += [f"- {text}"] if inside == "item" else ["", f"- {text}"]
            inside = "item"
        elif inside == "item" and line.strip() and (line.startswith(" ") or not out[-1].rstrip().endswith(".")):
            out.append(f"  {_escaped(line.strip())}")
        else:
            out += ["", _escaped(line.strip())] if inside and line.strip() else [_escaped(line.strip())]
            inside = ""
    lines[:] = out


def _escaped(line: str) -> str:
    # |x| would be a substitution, name_ a reference, *args emphasis; roles such as :meth:`velocity` stay
    found = line.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")
    return re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", found)
