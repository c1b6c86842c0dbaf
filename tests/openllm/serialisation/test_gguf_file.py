from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.openllm.serialisation import gguf_models

from openllm.serialisation import gguf_file
from openllm_core.errors import CorruptModel


def test_the_header_says_what_the_gguf_package_reads(tmp_path: Path) -> None:
    """Every key and value, scalars, texts and lists, as gguf's own reader gives them."""
    path = gguf_models.write(tmp_path / "m.gguf")
    header = gguf_file.read_header(path)
    reader = gguf.GGUFReader(str(path))
    expected = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert {key: entry.value for key, entry in header.entries.items()} == expected
    assert header.tensor_count == len(reader.tensors) and header.data_start == reader.data_offset


def test_a_copy_without_keys_has_the_same_tensors(tmp_path: Path) -> None:
    """Keys go, everything else and all weights stay."""
    path = gguf_models.write(tmp_path / "m.gguf")
    header = gguf_file.read_header(path)
    gguf_file.copy_without(path, header, lambda key: key.startswith("tokenizer."), tmp_path / "slim.gguf")
    old, new = gguf.GGUFReader(str(path)), gguf.GGUFReader(str(tmp_path / "slim.gguf"))
    assert {k for k in old.fields if not k.startswith("tokenizer.")} == set(new.fields)
    assert [t.name for t in old.tensors] == [t.name for t in new.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(old.tensors, new.tensors, strict=True))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**24),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) * 50,
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """Not GGUF, an old version, impossible counts, endless nesting: CorruptModel, at once."""
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CorruptModel, match=r"m\.gguf"):
        gguf_file.read_header(tmp_path / "m.gguf")


def test_a_thousand_mutations_raise_nothing_else(tmp_path: Path) -> None:
    """Whatever bytes change or are cut off, reading returns or raises CorruptModel."""
    whole = gguf_models.write(tmp_path / "m.gguf").read_bytes()
    end = gguf_file.read_header(tmp_path / "m.gguf").data_start
    chance = random.Random(7)
    refused = 0
    for _ in range(1000):
        content = bytearray(whole[:end])
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(min(end, 600))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(end) :]
        (tmp_path / "x.gguf").write_bytes(content)
        try:
            gguf_file.read_header(tmp_path / "x.gguf")
        except CorruptModel:
            refused += 1
    assert refused > 100
