"""What messages are written as: names are the fields', and what is declared so is left out while there is none."""

from __future__ import annotations

import attrs
import orjson

from openllm_core.serde import dumps, field, unstructure


@attrs.frozen
class Part:
    """A message with one field of each kind."""

    kept: int | None = field(default=None)
    gone: int | None = field(default=None, omitted=True)


def test_a_field_is_left_out_where_it_is_declared_so() -> None:
    """As JSON and as plain data, at every level; a value of it is written, 0 too."""
    for given, made in ((Part(), {"kept": None}), (Part(gone=0), {"kept": None, "gone": 0})):
        assert unstructure(given) == made and orjson.loads(dumps(given)) == made
        assert orjson.loads(dumps({"in": [given]})) == {"in": [made]} == unstructure({"in": [given]})
    assert unstructure(Part(), omit_none=True) == {}
