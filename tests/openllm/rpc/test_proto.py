"""The .proto files: stubs that follow them, fields that follow the tables, numbers that are BentoML's."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from openllm.rpc.errors import TABLE
from openllm.rpc.proto import bentoml_v1_pb2
from openllm.server.errors import TABLE as HTTP
from openllm_core.fields import FIELDS
from openllm_core.proto.openllm.v1 import openllm_pb2

ROOT = Path(__file__).resolve().parents[3]


def test_the_stubs_are_fresh() -> None:
    """`python3 tools/gen_proto.py` would change nothing."""
    command = [sys.executable, str(ROOT / "tools/gen_proto.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_stub_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` fails where a stub is not what the .proto file makes."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gen_proto

    monkeypatch.setattr(gen_proto, "ROOT", tmp_path)
    for source, proto in gen_proto.SOURCES.items():
        (tmp_path / source / proto).parent.mkdir(parents=True)
        (tmp_path / source / proto).write_text((ROOT / source / proto).read_text())
    assert gen_proto.main(["--check"]) == 1
    assert gen_proto.main([]) == 0
    assert gen_proto.main(["--check"]) == 0
    next(tmp_path.rglob("openllm_pb2.pyi")).write_text("stale")
    assert gen_proto.main(["--check"]) == 1


def test_sampling_has_every_field_of_the_table() -> None:
    """What a request may say over HTTP, it may say over gRPC by the same name, and nothing else."""
    assert {field.name for field in openllm_pb2.SamplingParams.DESCRIPTOR.fields} == set(FIELDS)


def test_bentomls_protocol_is_bentomls(tmp_path: Path) -> None:
    """Every name, number and type of our copy is that of the .proto file in BentoML's own package."""
    spec = find_spec("bentoml")
    assert spec is not None and spec.origin is not None
    theirs = _compiled(Path(spec.origin).parent / "grpc/v1/service.proto", tmp_path)
    ours = FileDescriptorProto()
    bentoml_v1_pb2.DESCRIPTOR.CopyToProto(ours)
    assert ours.package == theirs.package
    assert [method.name for method in ours.service[0].method] == [method.name for method in theirs.service[0].method]
    assert ours.service[0].name == theirs.service[0].name
    known = {message.name: message for message in theirs.message_type}
    for message in ours.message_type:
        _assert_part(message, known[message.name])


def _compiled(proto: Path, folder: Path) -> FileDescriptorProto:
    made = folder / "set"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{proto.parent}",
        f"--descriptor_set_out={made}",
        str(proto),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return FileDescriptorSet.FromString(made.read_bytes()).file[0]


def _assert_part(ours: DescriptorProto, theirs: DescriptorProto) -> None:
    facts = {field.name: (field.number, field.type, field.label, field.type_name) for field in theirs.field}
    for field in ours.field:
        assert facts[field.name] == (field.number, field.type, field.label, field.type_name), (
            f"{ours.name}.{field.name}"
        )
    nested = {message.name: message for message in theirs.nested_type}
    for message in ours.nested_type:
        _assert_part(message, nested[message.name])


HTTP_ONLY = {
    *("forbidden_host", "forbidden_origin", "forbidden_peer"),  # of browsers, and of a server somebody else listens for
    *("method_not_allowed", "request_timeout", "uri_too_long", "unsupported_media_type", "headers_too_large"),
}


def test_the_table_has_the_codes_of_http() -> None:
    """What has a status of its own over HTTP has one over gRPC, and the other way round."""
    assert set(TABLE) == set(HTTP) - HTTP_ONLY
