"""`openllm playground [DIR]`: write the notebooks into a folder and open Jupyter there.

Reads the command line and starts Jupyter as a program of its own; knows nothing of what the notebooks do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from openllm.cli.command import Command, Session
from openllm.cli.output import Output, output_option
from openllm_core.errors import MissingDependency

FRONT_ENDS = ("jupyterlab", "notebook")  # what may open them, the first one installed


@click.command("playground", cls=Command)
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8888,
    show_default=True,
    envvar="JUPYTER_PORT",
    show_envvar=True,
    help="Port of Jupyter.",
)
@click.option("--write-only", is_flag=True, help="Write the notebooks and open nothing.")
@output_option
@click.pass_obj
def command(session: Session, folder: Path | None, port: int, write_only: bool, output: str) -> int:
    """Write notebooks into DIR and open Jupyter there; without DIR, into a new temporary folder.

    They serve the default model, put adapters on it, and fine-tune models of three families, all of it on a CPU if need be.
    A notebook that is in DIR already is left as it is.
    """
    from openllm.playground import write_notebooks

    out = Output(output, session)
    folder = (folder or Path(tempfile.mkdtemp(prefix="openllm-playground-"))).absolute()
    written = write_notebooks(folder)
    if output == "json":
        out.json([{"path": str(one.path), "title": one.title, "new": one.new} for one in written])
    elif output == "porcelain":
        out.data("\n".join(str(one.path) for one in written))
    else:
        out.table(["notebook", "what it does"], [(one.path.name, one.title) for one in written])
        out.say()
        kept = sum(not one.new for one in written)
        out.say(f"In {folder}{f'; {kept} were there already' if kept else ''}.", dim=True)
    return 0 if write_only else _open(folder, port)


def _open(folder: Path, port: int) -> int:
    """Run Jupyter until it ends, and end alike.

    Raises:
        MissingDependency: there is none.
    """
    found = next((name for name in FRONT_ENDS if find_spec(name)), None)
    if found is None:
        raise MissingDependency(
            f"The notebooks are in {folder}; Jupyter, which opens them, is not installed.",
            hint='pip install "openllm[playground]"',
        )
    command = [sys.executable, "-P", "-m", found, "--no-browser", "--port", str(port)]
    try:
        return subprocess.run(command, cwd=folder, check=False).returncode
    except KeyboardInterrupt:
        return 130
