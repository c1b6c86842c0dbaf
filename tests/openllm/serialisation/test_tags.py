from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from openllm.serialisation.tags import folder_version, normalise, tag_name, without_backend


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("google/flan_t5", "google--flan-t5"),
        ("Org/Model-7B", "org--model-7b"),
        ("a.b", "a.b"),
        ("-x-", "x"),
        ("mödel", "m-del"),
        ("ö", "model-" + hashlib.sha1("ö".encode()).hexdigest()[:8]),
    ],
)
def test_names_are_what_bentoml_takes(text: str, name: str) -> None:
    """Lower case, `/` becomes `--`, `_` becomes `-`, anything else a dash; never empty."""
    assert normalise(text) == name


def test_long_names_are_cut_and_stay_apart() -> None:
    """At most 63 characters, and two long names with one beginning do not become one."""
    a, b = normalise("x" * 80 + "a"), normalise("x" * 80 + "b")
    assert len(a) <= 63 and len(b) <= 63 and a != b


def test_a_folder_is_named_by_its_basename(tmp_path: Path) -> None:
    """The tag of a folder carries its own name only, never the path."""
    assert tag_name("pt", tmp_path / "My_Model") == "pt-my-model"


def test_the_version_of_a_folder_is_the_sha1_of_its_time(tmp_path: Path) -> None:
    """As 0.3.5 made it: SHA-1 of the text of the modification time."""
    expected = hashlib.sha1(str(os.path.getmtime(tmp_path)).encode()).hexdigest()
    assert folder_version(tmp_path) == expected


def test_the_backend_prefix_is_dropped_only_where_it_is_one() -> None:
    """`pt-x` is x; `party-x` and a bare `pt` stay."""
    assert [without_backend(n) for n in ("pt-x", "vllm-x", "party-x", "pt")] == ["x", "x", "party-x", "pt"]
