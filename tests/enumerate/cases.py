"""Every field of every route, with every value in its place: the bodies of the enumeration, each with a name.

`fields_of` walks the JSON schema of a route's body; `singles` puts each value into each field, `pairs` draws two fields and
two values at a time. What a body is worth is judged by `reading.py`.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from .reading import Reading
from .values import Value, sample, values_for

Path = tuple[str | int, ...]
MARK = "@@here@@"
MOST_DEPTH = 5


@attrs.frozen(eq=False)
class Field:
    """A place in a body.

    Attributes:
        path: names and indices from the outermost.
        schema: of what belongs there.
        around: what must be there before: the path of each container, and the container.
    """

    path: Path
    schema: Mapping[str, Any]
    around: tuple[tuple[Path, Any], ...]

    @property
    def name(self) -> str:
        """As errors call it."""
        return named(self.path)


@attrs.frozen(eq=False)
class Route:
    """A route that reads JSON.

    Attributes:
        schema: of its body, without references.
        base: a body it takes.
    """

    method: str
    path: str
    schema: Mapping[str, Any]
    base: Any
    fields: Sequence[Field]


@attrs.frozen
class Case:
    """One body.

    Attributes:
        name: what stands where.
        paths: of the fields that were changed.
    """

    route: Route
    name: str
    body: str
    paths: tuple[Path, ...]


def named(path: Path) -> str:
    """A path as text: `messages[0].role`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def routes_of(document: Mapping[str, Any], reading: Reading) -> list[Route]:
    """The routes of /openapi.json that have a body."""
    found: list[Route] = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if "requestBody" not in operation:
                continue
            content = operation["requestBody"]["content"]["application/json"]
            schema = reading.resolved(content["schema"])
            base = base_of(path, schema, content.get("example"))
            found.append(Route(method.upper(), path, schema, base, list(fields_of(schema))))
    return found


def base_of(path: str, schema: Mapping[str, Any], example: Any) -> Any:
    """The body that the document shows, or the least one, answered with a few tokens."""
    base = sample(schema) if example is None or "adapters" in path else copy.deepcopy(example)
    if "max_tokens" in schema.get("properties", {}):
        base["max_tokens"] = 3
    elif path == "/hf/agent":
        base["parameters"] = {"max_new_tokens": 3}
    elif path.startswith("/v1/generate"):
        base["llm_config"] = {"max_new_tokens": 3}
    return base


def fields_of(schema: Mapping[str, Any]) -> Iterator[Field]:
    """Every field of a body, nested ones too; the body itself first."""
    yield Field((), schema, ())
    yield from _inside(schema, (), ())


def _inside(schema: Mapping[str, Any], path: Path, around: tuple[tuple[Path, Any], ...]) -> Iterator[Field]:
    if len(path) >= MOST_DEPTH:
        return
    for option in schema.get("anyOf", [schema]):
        for key, inner in option.get("properties", {}).items():
            if isinstance(inner, Mapping):
                yield Field((*path, key), inner, around)
                yield from _containers(inner, (*path, key), around)
        free = option.get("additionalProperties")
        if isinstance(free, Mapping):
            key = "65" if "propertyNames" in option else "some"
            yield Field((*path, key), free, around)
        elif "properties" in option:
            yield Field((*path, "no_such_field"), {}, around)
        if isinstance(option.get("items"), Mapping):
            yield Field((*path, 0), option["items"], around)
            yield from _containers(option["items"], (*path, 0), around)


def _containers(schema: Mapping[str, Any], path: Path, around: tuple[tuple[Path, Any], ...]) -> Iterator[Field]:
    """Fields inside a field, under each form it may have."""
    for option in schema.get("anyOf", [schema]):
        made = sample(option)
        if isinstance(made, (dict, list)):
            yield from _inside(option, path, (*around, (path, made)))


# -- bodies -----------------------------------------------------------------------------------------------------------


def singles(route: Route) -> Iterator[Case]:
    """Each field with each of its values."""
    for field in route.fields:
        for value in values_for(field.schema):
            yield case_of(route, [(field, value)])


def pairs(routes: Sequence[Route], seed: int) -> Iterator[Case]:
    """Two fields at a time, without end; the same for the same seed."""
    rng = random.Random(seed)
    weights = [len(route.fields) for route in routes]
    values = {field: list(values_for(field.schema)) for route in routes for field in route.fields}
    while True:
        route = rng.choices(routes, weights)[0]
        if len(route.fields) < 3:
            continue
        first, second = rng.sample(route.fields[1:], 2)
        shorter, longer = sorted((first, second), key=lambda field: len(field.path))
        if longer.path[: len(shorter.path)] == shorter.path:
            continue  # the one would take the other's place
        yield case_of(route, [(field, rng.choice(values[field])) for field in (first, second)])


def case_of(route: Route, changes: Iterable[tuple[Field, Value]]) -> Case:
    """The base body with some fields changed."""
    body: Any = copy.deepcopy(route.base)
    said: list[str] = []
    paths: list[Path] = []
    for number, (field, value) in enumerate(changes):
        paths.append(field.path)
        said.append(f"{field.name or 'body'} = {value.label}")
        if not field.path:
            return Case(route, said[0], value.text or "", ((),))
        for path, container in field.around:
            if type(_get(body, path)) is not type(container) or not container:
                _put(body, path, copy.deepcopy(container))
        if value.text is None:
            _drop(body, field.path)
        else:
            _put(body, field.path, f"{MARK}{number}")
            if value.twice and isinstance(field.path[-1], str):
                _put(body, (*field.path[:-1], f"{MARK}{number}"), 0)
    text = json.dumps(body)
    for number, (field, value) in enumerate(changes):
        if value.twice and field.path and isinstance(field.path[-1], str):
            text = text.replace(f'"{MARK}{number}": 0', f"{json.dumps(field.path[-1])}: {value.text}")
        if value.text is not None:
            text = text.replace(f'"{MARK}{number}"', value.text)
    return Case(route, ", ".join(said), text, tuple(paths))


def _get(body: Any, path: Path) -> Any:
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            return None
    return body


def _put(body: Any, path: Path, value: Any) -> None:
    holder = _get(body, path[:-1])
    if isinstance(holder, list):
        holder[:] = [value, *holder[1:]]
    elif isinstance(holder, dict):
        holder[path[-1]] = value


def _drop(body: Any, path: Path) -> None:
    holder = _get(body, path[:-1])
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
    elif isinstance(holder, list):
        holder.clear()
