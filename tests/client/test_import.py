"""What importing the client brings in, and the names it gives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata, resources

import pytest
from packaging.requirements import Requirement

import openllm_client


def loaded_by(statement):
    """Names of all modules that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_brings_only_its_dependencies():
    """Beyond httpx, orjson, attrs, cattrs and the standard library only our two packages are loaded."""
    bare = loaded_by("import httpx, orjson, attrs, cattrs")
    both = "from openllm_client import AsyncHTTPClient, HTTPClient"
    added = {name.partition(".")[0] for name in loaded_by(both) - bare}
    assert {name for name in added if name not in sys.stdlib_module_names} == {"openllm_client", "openllm_core"}


def test_the_package_alone_brings_nothing():
    """Names load on first use: a program that only might ask a server pays when it does."""
    loaded = loaded_by("import openllm_client")
    assert not {name for name in loaded if name.partition(".")[0] in ("httpx", "attr", "cattrs", "openllm_core")}


def test_import_leaves_asyncio_and_the_families_alone():
    """asyncio comes with the asynchronous client, the model families with `config`."""
    loaded = loaded_by("from openllm_client import HTTPClient; HTTPClient('h')")
    assert not {name for name in loaded if name.startswith(("asyncio", "openllm_core.families", "openllm_core.config"))}
    assert "asyncio" in loaded_by("from openllm_client import AsyncHTTPClient")


def test_names():
    """What the package gives is what it lists; another name is an AttributeError."""
    for name in openllm_client.__all__:
        assert getattr(openllm_client, name).__name__ == name
    assert dir(openllm_client) == sorted(openllm_client.__all__)
    with pytest.raises(AttributeError, match="RestClient"):
        _ = openllm_client.RestClient


def test_grpc_comes_with_its_clients():
    """The package and its HTTP clients load no grpc; without the extra, a gRPC client's name says what to install."""
    loaded = loaded_by("import openllm_client; openllm_client.HTTPClient('h'); openllm_client.AsyncHTTPClient('h')")
    assert not {
        name for name in loaded if name.partition(".")[0] in ("grpc", "google", "torch", "openai", "smolagents")
    }
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "try:\n    from openllm_client import GrpcClient\n"
        "except ImportError as error:\n    print(type(error).__name__, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'MissingDependency pip install "openllm-client[grpc]"'


def test_few_packages_are_needed():
    """What pip brings beside our two packages, their own needs included: at most 12."""
    wanted, found = ["openllm-client"], set()
    while wanted:
        name = re.split(r"[^A-Za-z0-9._-]", wanted.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(text) for text in metadata.requires(name) or ()]
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert len(found - {"openllm-client", "openllm-core"}) <= 12, found


def test_package_is_typed():
    """Type checkers read the package's own annotations."""
    assert resources.files(openllm_client).joinpath("py.typed").is_file()
