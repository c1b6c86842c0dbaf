"""What was asked for that is less safe than without a word: one line each, at every start and in `openllm doctor`.

Each is allowed, since somebody asked for it; nobody should have to find out later that it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from openllm.access import ANY_ORIGIN, allowed_origins, has_keys, is_loopback
from openllm.server import tls
from openllm_core.options import EngineOptions, ServerOptions

from .finding import Finding, Situation


def unsafe(situation: Situation) -> Iterator[Finding]:
    """One warning per relaxed default."""
    for line in relaxed(situation.engine, situation.server):
        yield Finding("UNSAFE", "warn", line)


def relaxed(engine: EngineOptions, server: ServerOptions) -> list[str]:
    """The defaults that are relaxed, each with what that means.

    Raises:
        ConfigError: a setting does not fit.
    """
    found: list[str] = []
    if not has_keys(server) and not is_loopback(server.host):
        found.append(f"--no-auth: whoever reaches {server.host} may use the model, and nobody is told apart")
    if not has_keys(server) and server.allow_adapter_load and not server.admin_key:
        found.append("--allow-adapter-load without a key: whoever may ask may change which adapters are served")
    if ANY_ORIGIN in allowed_origins(server):
        whose = "with a key" if has_keys(server) else "that a browser here opens"
        found.append(f"--cors: every web page {whose} may use the model; --cors ORIGIN names those that may")
    if engine.trust_remote_code:
        found.append("--trust-remote-code: Python code that comes with the model runs here, with your rights")
    if engine.converts_pickle:
        found.append("--allow-pickle-weights: a pickled file can run code of its maker's when it is read")
    if server.log_prompts:
        found.append("--log-prompts: what people ask and are answered stands in the log")
    return [*found, *tls.relaxed(server)]
