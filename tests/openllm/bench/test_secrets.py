"""What of a command line is left out of results."""

from __future__ import annotations

import pytest

from openllm.bench.secrets import without_secrets
from openllm.bench.subjects import Subject


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("--header Authorization=Bearer-x --rounds 3", "--header Authorization=… --rounds 3"),
        ("--header=X-Key=x", "--header=X-Key=…"),
        ("--peer-arg --api-key --peer-arg sk-1 --seed 1", "--peer-arg --api-key --peer-arg … --seed 1"),
        ("--peer-arg=--api-key=sk-1", "--peer-arg=--api-key=…"),
        ("--peer-arg=--hf-token --peer-arg=hf_1", "--peer-arg=--hf-token --peer-arg=…"),
        ("--api-key sk-1 sk-2", "--api-key … sk-2"),
        ("--max-tokens 5 --input-tokens 9 --tokenizer x", "--max-tokens 5 --input-tokens 9 --tokenizer x"),
        ("--ssl-keyfile key.pem --api-key --port 1", "--ssl-keyfile key.pem --api-key --port 1"),
    ],
)
def test_what_may_be_a_secret_is_left_out(typed: str, shown: str) -> None:
    """The value of a flag whose name says so, wherever it stands, and of each header; numbers of tokens stay."""
    assert " ".join(without_secrets(typed.split())) == shown


def test_a_servers_command_and_variables_are_published_without() -> None:
    """What a result says of a peer: neither its key on the command line nor a token in its environment."""
    command = ["python", "-m", "server", "--api-key", "sk-1"]
    environ = {"HF_TOKEN": "hf_1", "OMP_NUM_THREADS": "2"}
    told = Subject(name="peer", command=command, ready_path="/", model="m", environ=environ).as_data()
    assert told["command"] == "python -m server --api-key …"
    assert told["environ"] == {"HF_TOKEN": "…", "OMP_NUM_THREADS": "2"}
