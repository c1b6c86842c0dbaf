"""`openllm instruct TASK`: an agent on a running server's model, with tools that run here; the answer alone is on stdout."""

from __future__ import annotations

import inspect
import json
import os
import sys
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.command import Session
from openllm.cli.output import Output, output_option
from openllm.cli.remote import AskCommand, as_text, endpoint_options, open_client, parse_sampling, sampling_option

if TYPE_CHECKING:
    from openllm_client import AgentStep

HAVE_FLAGS = frozenset(
    {"task", "agent_type", "tools", "model", "stream", "allow_code", "return_code", "remote", "sampling"}
)
SHOWN_LINES = 12  # of what a tool gave back


@click.command("instruct", cls=AskCommand)
@click.argument("task")
@endpoint_options
@click.option("--agent", type=click.Choice(["hf"]), default="hf", show_default=True, help="Kind of agent: smolagents.")
@click.option(
    "--tool",
    "tools",
    multiple=True,
    metavar="MODULE:NAME",
    help="Tool the model may call: a function or a smolagents tool, in a module that can be imported from here; repeatable.",
)
@click.option("--model", metavar="NAME", help="Served model to ask; default: the server's first.")
@click.option("--max-steps", type=click.IntRange(1), default=20, show_default=True, help="Steps at most.")
@click.option(
    "--allow-code", is_flag=True, help="Let the model write Python and run it here, with your rights. Off unless typed."
)
@click.option("--remote", is_flag=True, help="Hosted tools, as in 0.3.5: there are none any more.")
@click.option(
    "--opt",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_sampling,
    help="Argument of smolagents' agent, as in add_base_tools=true; repeatable.",
)
@sampling_option
@output_option
@click.pass_obj
def command(
    session: Session,
    task: str,
    endpoint: str | None,
    timeout: float,
    agent: str,
    tools: tuple[str, ...],
    model: str | None,
    max_steps: int,
    allow_code: bool,
    remote: bool,
    options: dict[str, Any],
    sampling_params: dict[str, Any],
    output: str,
) -> None:
    """Have a running server's model do TASK with tools that run here.

    Each step is told on stderr; the answer goes to stdout. Without --allow-code the model can do nothing but call the tools
    of --tool, and give its answer.
    """
    out = Output(output, session)
    found = [_tool(word) for word in tools]
    options.setdefault("max_steps", max_steps)
    for name in HAVE_FLAGS & options.keys():
        raise click.BadParameter(f"{name} is not an argument of the agent.", param_hint="--opt")
    with closing(open_client(endpoint, timeout)) as client:
        steps = client.ask_agent(
            as_text(task),
            agent_type=agent,
            tools=found,
            model=model,
            stream=True,
            allow_code=allow_code,
            remote=remote,
            sampling=sampling_params,
            **options,
        )
        if output != "porcelain":
            out.say(f"Asking the agent, with {_count(len(found))} and {client.address}.", dim=True)
        answer: Any = None
        for step in steps:
            answer = step.answer
            if output != "porcelain":
                _tell(out, step)
    if output == "json":
        out.json(_plain(answer))
    else:
        out.data(str(answer))


def _tool(word: str) -> Any:
    """What `MODULE:NAME` names, with this folder among those that modules are found in."""
    module, _, name = word.partition(":")
    if not module or not name:
        raise click.BadParameter(f"{word!r} is not MODULE:NAME.", param_hint="--tool")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(f"{word!r} cannot be had: {error}.", param_hint="--tool") from error
    return found() if inspect.isclass(found) else found


def _plain(answer: Any) -> Any:
    """The answer as JSON can say it: what it cannot becomes text."""
    try:
        json.dumps(answer)
    except (TypeError, ValueError):
        return str(answer)
    return answer


def _count(tools: int) -> str:
    return "no tools" if not tools else f"{tools} tool{'s' if tools > 1 else ''}"


def _tell(out: Output, step: AgentStep) -> None:
    """What came of a step; the step itself is a line of the client's log, which stderr shows."""
    lines = [line for line in step.observations.splitlines() if line.strip()]
    for line in lines[:SHOWN_LINES]:
        out.say(f"  {line}", dim=True)
    if len(lines) > SHOWN_LINES:
        out.say(f"  … {len(lines) - SHOWN_LINES} more lines", dim=True)
