"""`openllm start [MODEL]`: find the model, say what was decided and why, serve until stopped.

Wires nothing itself: `openllm.serialisation.resolve`, `openllm.compose.build` and `openllm.server.run.serve` do the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli.command import Command, Session
from openllm.cli.options import Settings, config_option, read_settings, setting_options
from openllm.cli.output import Output, output_option
from openllm.cli.ready import Ready, forget, ready_text, remember
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

if TYPE_CHECKING:
    from openllm.compose import Composed
    from openllm.serialisation import ResolvedModel


@click.command("start", cls=Command)
@click.argument("model", required=False)
@click.option("--model-id", envvar="OPENLLM_MODEL_ID", show_envvar=True, help="Id or folder, where MODEL is a family name.")
@output_option
@config_option
@setting_options(EngineOptions, ServerOptions, StoreOptions)
@click.pass_obj
def command(
    session: Session, model: str | None, model_id: str | None, output: str, config: Path | None, **typed: Any
) -> int:
    """Serve MODEL over HTTP until stopped.

    MODEL is a folder, a tag of the store, a hub id (org/name) or a family name (`openllm models`); without it the default
    model is served. The API is OpenAI's: /v1/chat/completions, /v1/completions, /v1/models; /docs describes it all.

    With -o json, stdout gets one JSON object when the model answers; with -o porcelain, the endpoint.
    """
    settings = read_settings(typed, config)
    return serve(settings, model or settings.model, model_id or settings.model_id, Output(output, session))


def serve(settings: Settings, model: str | None, model_id: str | None, out: Output) -> int:
    """Resolve, compose, serve.

    Returns:
        the exit code of the server.

    Raises:
        OpenLLMError: the model is not found, the port is taken, a package is missing, …
    """
    from openllm.server.run import check_port

    check_port(settings.server)
    resolved = find_model(settings, model, model_id, out)
    from openllm.compose import build
    from openllm.server.run import serve as run

    composed = build(settings.engine, settings.server, resolved)
    show = Startup(composed, settings, out)
    try:
        return run(composed, settings.server, on_listening=show.listening, on_ready=show.ready)
    finally:
        show.end()
