"""Backends by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from openllm.backends import registry
from openllm_core.errors import MissingDependency, UnknownBackend
from openllm_core.options import EngineOptions


def test_ours_are_there() -> None:
    """echo and pt are found by name."""
    assert {"echo", "pt"} <= set(registry.names())
    assert registry.get("echo").package == "openllm.backends.echo"


@pytest.mark.parametrize("alias", ["torch", "pytorch"])
def test_aliases(alias: str) -> None:
    """Names people type for pt mean pt."""
    assert registry.get(alias).name == "pt"


def test_unknown_name_names_near_ones() -> None:
    """A mistyped backend is refused with the likely one in the hint."""
    with pytest.raises(UnknownBackend) as caught:
        registry.get("ecko")
    assert "echo" in (caught.value.hint or "")


def test_third_party_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend of another package is found through its entry point."""

    class Point:
        name, value = "mine", "my_package.backend:thing"

    def points(group: str) -> list[Any]:
        assert group == "openllm.backends"
        return [Point()]

    monkeypatch.setattr(registry, "entry_points", points)
    registry._packages.cache_clear()
    try:
        assert registry.get("mine").package == "my_package.backend"
    finally:
        registry._packages.cache_clear()


def test_choose_keeps_what_was_asked_for() -> None:
    """An explicit backend is taken as it is."""
    assert registry.choose(EngineOptions(backend="echo")) == ("echo", "asked for")


def test_auto_takes_torch_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto chooses pt when torch can be found, and says what is missing when not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "torch" else None)
    assert registry.choose(EngineOptions(), "LlamaForCausalLM") == (
        "pt",
        "the fastest installed for LlamaForCausalLM; vllm is not",
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency):
        registry.choose(EngineOptions())


def test_launch_needs_no_framework() -> None:
    """What the server process asks of a backend before its host starts imports no torch."""
    code = (
        "import sys; from openllm.backends import registry; from openllm_core.options import EngineOptions\n"
        "for name in ('echo', 'pt'): registry.get(name).environment(EngineOptions(backend=name))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_echo_fits_everywhere() -> None:
    """The estimate of a backend without a model is small and fits."""
    estimate = registry.get("echo").estimate(EngineOptions(backend="echo"))
    assert estimate.fits
    assert estimate.need_bytes < 2**25
