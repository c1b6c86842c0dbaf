#!/usr/bin/env python3
"""Write the Python stubs of each .proto file beside it: `python3 tools/gen_proto.py`.

`--check` writes nothing and fails where a stub is stale. Needs grpcio-tools, at the version of constraints/dev.txt: the
stubs say which versions of grpcio and protobuf they need at least, and the extras of the packages repeat it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "openllm-core/src": "openllm_core/proto/openllm/v1/openllm.proto",
    "openllm-python/src": "openllm/rpc/proto/bentoml_v1.proto",
}
"""Root of a package's source -> its .proto file, so that the stubs import each other by the names Python knows."""


def outputs() -> Mapping[Path, str]:
    """Every file this program keeps -> the text it should have."""
    texts: dict[Path, str] = {}
    for source, proto in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            kinds = [f"--{kind}={folder}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
            command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / source}", *kinds, proto]
            subprocess.run(command, check=True)
            for made in sorted(Path(folder).rglob("*_pb2*")):
                texts[ROOT / source / made.relative_to(folder)] = made.read_text(encoding="utf-8")
    return texts


def main(arguments: Sequence[str]) -> int:
    """Write, or with `--check` compare."""
    wanted = outputs()
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {file.relative_to(ROOT)}")
        if "--check" not in arguments:
            file.write_text(wanted[file], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
