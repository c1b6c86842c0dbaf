"""Notebooks from scripts: the cells they get, that they are valid, and that nobody's own file is written over."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import nbformat
import pytest

from openllm.playground import PARAMETERS, notebook_of, scripts, title_of, write_notebooks

NAMES = ["adapters", "falcon_tuned", "features", "llama2_qlora", "opt_tuned"]

SCRIPT = '''"""A title

What it is about, in two
lines.
"""

# %%
import json

# %% [markdown]
# Words, and a list:
#
# - one

# %% parameters
MODEL = 1

# %%
print(json.dumps(MODEL))


print("end")
'''


def test_cells_of_a_script() -> None:
    """The docstring is the first cell, words lose their comment signs, code stays as it is."""
    cells = notebook_of(SCRIPT, "a_name")["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# A title\n\nWhat it is about, in two\nlines."),
        ("code", "import json"),
        ("markdown", "Words, and a list:\n\n- one"),
        ("code", "MODEL = 1"),
        ("code", 'print(json.dumps(MODEL))\n\n\nprint("end")'),
    ]
    assert [cell["metadata"] for cell in cells] == [{}, {}, {}, {"tags": [PARAMETERS]}, {}]
    assert [cell["id"] for cell in cells] == [f"a-name-{i}" for i in range(5)]


def test_there_is_one_notebook_per_script(tmp_path: Path) -> None:
    """In the folder named, which is made; each is valid by its format, has a title, and its values to change stand apart."""
    written = write_notebooks(tmp_path / "new" / "folder")
    assert [one.path.name for one in written] == [f"{name}.ipynb" for name in NAMES]
    for one in written:
        assert one.new and one.title
        notebook = nbformat.read(one.path, as_version=4)
        nbformat.validate(notebook)
        tagged = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get("tags", [])]
        assert len(tagged) == 1 and "MODEL" in tagged[0].source


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """What a reader changed is theirs."""
    mine = tmp_path / "features.ipynb"
    mine.write_text("mine")
    written = {one.path.stem: one.new for one in write_notebooks(tmp_path)}
    assert written == {name: name != "features" for name in NAMES}
    assert mine.read_text() == "mine"
    assert not any(one.new for one in write_notebooks(tmp_path))


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_scripts_are_plain_python(script: Path) -> None:
    """They run without Jupyter too: no magic, and imports stand at the top."""
    source = script.read_text(encoding="utf-8")
    body = ast.parse(source).body[1:]
    imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
    assert imports == sorted(imports, reverse=True)
    assert len(title_of(source)) < 80


def test_the_qlora_script_saves_plain_weights() -> None:
    """It trains over 4 bits and merges into the weights as the model's files have them."""
    [script] = [path for path in scripts() if path.stem == "llama2_qlora"]
    calls = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = {keyword.arg: ast.unparse(keyword.value) for call in calls for keyword in call.keywords}
    assert given["quantize"] == "'int4'"
    assert given["merge"] == "True"


def test_writing_needs_no_jupyter(tmp_path: Path) -> None:
    """The file is plain JSON, and the same each time."""
    first = write_notebooks(tmp_path / "a")[0].path.read_text()
    assert first == write_notebooks(tmp_path / "b")[0].path.read_text()
    assert json.loads(first)["nbformat"] == 4
