"""The Python blocks and the commands that a document in Markdown shows."""

from __future__ import annotations

import re


def python_blocks(text: str, mark: str = "python") -> list[str]:
    """Return the blocks that begin with ```mark, each with as many empty lines before it as it has lines above it.

    mark: "python", or "py" for those that need more than this package, such as a server.
    """
    found = re.finditer(rf"^```{mark}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: block.start(1)].count("\n") + block[1] for block in found]


def run_blocks(text: str, name: str, mark: str = "python") -> None:
    """Run the blocks of a document in one namespace; what fails is reported at its line of the document."""
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in python_blocks(text, mark):
        exec(compile(block, name, "exec"), namespace)


def commands(text: str) -> list[str]:
    """Return the lines of code blocks that call oracle-engine, without their comments."""
    lines = re.findall(r"^(?: {4}| {0,3}(?=oracle-engine ))(?:\$ )?(oracle-engine .+)$", text, re.MULTILINE)
    return [line.split(" #")[0].strip() for line in lines]
