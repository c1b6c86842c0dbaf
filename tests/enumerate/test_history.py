"""No client ever gets what another one's request made, whatever happens to the server: sixty-four clients, and the checker.

`OPENLLM_TEST_HISTORY_S` makes it longer: the soak runs ten minutes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import pytest
from tests.e2e.conftest import openllm_start
from tests.enumerate import drive
from tests.enumerate.history import anomalies, summary
from tests.tiny_adapters import blank_adapter, forcing_adapter
from tests.tiny_models import tiny_checkpoint
from tokenizers import Tokenizer

SECONDS = float(os.environ.get("OPENLLM_TEST_HISTORY_S") or 15)
SOAKS = SECONDS >= 60
DEEDS = (drive.cut_connections, drive.kill_engine, drive.flood, drive.pause_engine, drive.cut_connections)
MORE = tuple(itertools.islice(itertools.cycle((*DEEDS, drive.freeze_engine, drive.flood, drive.kill_engine)), 10_000))
SAID = {"poet": "Roses are red, violets are blue", "cook": "Salt and pepper, oil and vinegar"}
FORCED = {"alpha": 40, "beta": 50, "gamma": 60}
LENGTH = 24

pytestmark = pytest.mark.timeout(SECONDS + 420)


def given(folders: Mapping[str, Path]) -> list[str]:
    """Words of a command line that bring adapters."""
    return [word for name, folder in folders.items() for word in ("--adapter-id", f"{folder}:{name}")]


@attrs.frozen
class Served:
    """What is served, and what is known of its answers.

    Attributes:
        arguments: words of the command line.
        said: adapter -> its answer to whatever is asked; the first one is the default.
        limits: see `drive.converse`.
    """

    arguments: list[str]
    said: dict[str, str]
    limits: dict[str, object] | None = None


def echo(folder: Path) -> Served:
    """The base repeats its prompt, the adapters say their verse."""
    made = given({name: blank_adapter(folder / name, echo=reply) for name, reply in SAID.items()})
    return Served(["--backend", "echo", "--engine-arg", "step_s=0.004", *made], SAID)


def pt(folder: Path) -> Served:
    """A tiny model, whose adapters each force a token: an answer tells who gave it."""
    model = tiny_checkpoint("llama", folder / "model", wide=True)
    made = given(  # strong: with the usual strength one prompt in some thousands gets its first token from the model after all
        {name: forcing_adapter(model, token, folder / name, strength=240.0) for name, token in FORCED.items()}
    )
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    said = {name: tokenizer.decode([token] * LENGTH) for name, token in FORCED.items()}
    limits: dict[str, object] = {"max_new_tokens": LENGTH, "ignore_eos": True, "temperature": 0.0}
    return Served([str(model), "--backend", "pt", "--dtype", "float32", *made], said, limits)


@pytest.mark.parametrize("backend", (echo, pt) if SOAKS else (echo,))
async def test_no_cross_talk(
    tmp_path: Path, backend: Callable[[Path], Served], record_property: Callable[[str, object], None]
):
    """Streams, one-shot answers and gRPC, the default adapter changing all the while; the engine is killed and stopped,
    connections are cut, and the line is flooded. Each call ends exactly once, with its own text or none, [DONE] if and only
    if it is whole, by the adapter that it was admitted with."""
    served = backend(tmp_path)
    arguments = [*served.arguments, "--max-queue", "48", "--restarts", "100", "--max-num-seqs", "16"]
    with openllm_start(tmp_path / "log.txt", *arguments, grpc=True) as server:
        course = await drive.converse(
            server,
            served.said,
            clients=64,
            seconds=SECONDS,
            seed=71,
            deeds=MORE if SOAKS else DEEDS,
            limits=served.limits,
            least=len(DEEDS),
        )
        assert server.process.poll() is None
    told = summary(course.calls, course.switches)
    print(told, course.deeds)
    for name, count in (("calls", len(course.calls)), ("switches", len(course.switches)), ("deeds", len(course.deeds))):
        record_property(name, count)
    assert anomalies(course.calls, course.switches, first=next(iter(served.said)))[:20] == [], told
    assert {"finished", "cut", "error", "refused"} <= set(told["ends"]), told
    assert min(len(course.switches), len(course.deeds)) >= len(DEEDS), (told, course.deeds)
