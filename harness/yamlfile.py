"""Files the user writes: YAML, read strictly. Every complaint names file, line and key, and suggests the nearest right one.

YAML from strangers is hostile input: no tags beyond the plain ones, no duplicate keys, and limits on size, depth and on
what aliases may expand to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import SpecError

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40

Location = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


class _Builder:
    """Turns composed nodes into plain data and remembers the line of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Location, int] = {}
        self.nodes = 0
        self.constructor = yaml.SafeLoader("")

    def fail(self, node: yaml.Node, message: str) -> SpecError:
        return SpecError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def build(self, node: yaml.Node, at: Location) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(at) > MAX_DEPTH:
            raise self.fail(node, "too large once its aliases are expanded, or nested too deep")
        self.lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*at, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, at)
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fail(node, f"value not understood ({_first_line(error)})") from error

    def mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node, (*at, "?"))
            if not isinstance(key, str):
                raise self.fail(key_node, f"key {key!r} is not text")
            if key in result:
                raise self.fail(key_node, f"key '{key}' is given twice")
            result[key] = self.build(value_node, (*at, key))
            self.lines[*at, key] = key_node.start_mark.line + 1
        return result


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None)
    return str(problem or error).split("\n", 1)[0]


def read_yaml(path: Path) -> tuple[Any, dict[Location, int]]:
    """Plain data of a YAML file and the line of every location in it. Raises SpecError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SpecError(f"{path}: {size} bytes is too large for a YAML file (limit {MAX_BYTES})")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file", remedy=_neighbours(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise SpecError(f"{path}{line}: not valid YAML: {_first_line(error)}") from error
    if node is None:
        raise SpecError(f"{path}: the file is empty")
    builder = _Builder(path)
    return builder.build(node, ()), builder.lines


def _neighbours(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = [p.name for p in sorted(path.parent.iterdir()) if p.suffix in {".yaml", ".yml"}]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else None


def suggest(wrong: str, known: Iterable[str]) -> str:
    """`— did you mean X?`, or the list of what is known."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


def _known_keys(model: type[BaseModel], location: Location) -> tuple[str, ...]:
    """Keys allowed where `location` stands, found by walking the model's fields."""
    current: Any = model
    for step in location:
        if isinstance(step, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        field = current.model_fields.get(step)
        if field is None:
            continue
        current = next(
            (
                candidate
                for candidate in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            ),
            None,
        )
    if isinstance(current, type) and issubclass(current, BaseModel):
        return tuple(field.alias or name for name, field in current.model_fields.items())
    return ()


def validate(model: type[ModelT], data: Any, path: Path, lines: dict[Location, int] | None = None) -> ModelT:
    """Build `model` from data; SpecError with one line per problem: file:line: key: what is wrong."""
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected keys and values, found {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, dict(item), path, lines or {}) for item in error.errors()]
    raise SpecError("\n".join(dict.fromkeys(problems)))


def _problem(model: type[BaseModel], item: dict[str, Any], path: Path, lines: dict[Location, int]) -> str:
    # pydantic puts names of union members into the location; only what stands in the file has a line.
    location: Location = ()
    for step in item["loc"]:
        if (*location, step) in lines or not lines:
            location = (*location, step)
    line = f":{lines[location]}" if location in lines and location else ""
    key = ".".join(str(step) for step in (location or item["loc"]))
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        hint = suggest(name, _known_keys(model, location[:-1]))
        return f"{path}{line}: unknown key '{key}' — {hint}"
    if item["type"] == "missing":
        return f"{path}{line}: key '{'.'.join(str(s) for s in item['loc'])}' is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{path}{line}: {key}: {message}" if key else f"{path}: {message}"


def load(model: type[ModelT], path: Path) -> ModelT:
    """Read and validate one YAML file. Raises SpecError."""
    data, lines = read_yaml(path)
    return validate(model, data, path, lines)
