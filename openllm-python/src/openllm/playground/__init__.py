"""Notebooks to try things in: `openllm playground` writes them into a folder and opens Jupyter there.

Each is a script of the folder `notebooks`, in cells marked by `# %%`: it runs as a notebook and with plain Python. This module
turns scripts into notebooks; it needs neither Jupyter nor any framework.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

SCRIPTS = Path(__file__).parent / "notebooks"
MARK = "# %%"
PARAMETERS = "parameters"  # tag of the cell whose values a reader may want to change


@attrs.frozen(kw_only=True)
class Written:
    """One notebook in a folder.

    Attributes:
        new: it was written now; else a file of that name was there and is as it was.
    """

    path: Path
    title: str
    new: bool


def write_notebooks(folder: Path) -> list[Written]:
    """Write every notebook into a folder, which is made; what is there already is left alone.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Written] = []
    for script in scripts():
        source = script.read_text(encoding="utf-8")
        path = folder / f"{script.stem}.ipynb"
        new = not path.exists()
        if new:
            path.write_text(json.dumps(notebook_of(source, script.stem), indent=1) + "\n", encoding="utf-8")
        written.append(Written(path=path, title=title_of(source), new=new))
    return written


def scripts() -> list[Path]:
    """The scripts, by name."""
    return sorted(SCRIPTS.glob("*.py"))


def title_of(source: str) -> str:
    """First line of a script's docstring."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def notebook_of(source: str, name: str) -> dict[str, Any]:
    """A script as a notebook: its docstring is the first cell, each mark begins another.

    Args:
        name: what the cells' ids begin with.

    Format: nbformat 4.5 (nbformat.readthedocs.io); scripts as in jupytext's percent format.
    """
    cells = [_cell(name, index, *part) for index, part in enumerate(_parts(source))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _parts(source: str) -> Iterator[tuple[str, str]]:
    """(what follows the mark, text) of each cell; the docstring counts as markdown."""
    heading, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    yield "[markdown]", f"# {heading}\n{rest}".strip()
    for part in source.split(f"\n{MARK}")[1:]:
        kind, _, text = part.partition("\n")
        yield kind.strip(), text.strip("\n")


def _cell(name: str, index: int, kind: str, text: str) -> dict[str, Any]:
    markdown = kind == "[markdown]"
    if markdown and index:
        text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
    cell: dict[str, Any] = {
        "id": f"{name.replace('_', '-')}-{index}",
        "cell_type": "markdown" if markdown else "code",
        "metadata": {"tags": [PARAMETERS]} if kind == PARAMETERS else {},
        "source": text.splitlines(keepends=True),
    }
    return cell if markdown else cell | {"execution_count": None, "outputs": []}
