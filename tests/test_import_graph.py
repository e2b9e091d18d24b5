"""The house has a direction: no cycle of imports, no upward import, no heavy toolchain at the door."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("converters", "harness")
LIGHT_CONVERTERS = {"converters.variant", "converters.dataset", "converters.search.trial"}
# Modules of the flow, from the source downstream: each may import itself and what stands before it, never after.
FLOW = [
    {"harness.errors", "harness.units", "harness.yamlfile"},
    {"harness.agent"},
    {"harness.records", "harness.row"},
    {"harness.profile_parts"},
    {"harness.plan", "harness.scenario", "harness.profiles", "harness.stats", "harness.collectors"},
    {"harness.experiment_parts"},
    {"harness.search_section"},
    {"harness.experiment", "harness.devices"},
    {"harness.session", "harness.runner", "harness.store"},
    {"harness.table"},
    {"harness.choose", "harness.compare", "harness.explain", "harness.gate", "harness.hints"},
    {"harness.report"},
    {"harness.tune", "harness.cli", "harness.demo"},
]


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str], *, lazy: bool) -> set[str]:
    """Project modules that `name` imports; with `lazy`, also those inside functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            return
        if (
            isinstance(node, ast.If)
            and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
            and not lazy
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in known else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    # CPython 3.11 trips over finalizers that run while it makes a tree; other tests leave some behind.
    gc.disable()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
    visit(tree)
    return {target for target in found if target.split(".")[0] in PACKAGES and target != name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(name, path, set(found), lazy=True) for name, path in found.items()}


def stage(name: str) -> int | None:
    parts = name.split(".")
    for index, rooms in enumerate(FLOW):
        if ".".join(parts[:2]) in rooms:
            return index
    return None


def test_the_graph_is_seen(graph: dict[str, set[str]]) -> None:
    assert "harness.errors" in graph["harness.yamlfile"]


def test_every_room_has_a_place_in_the_flow(graph: dict[str, set[str]]) -> None:
    homeless = [name for name in graph if name.startswith("harness.") and stage(name) is None]
    assert homeless == []


def test_no_cycle_among_modules() -> None:
    found = modules()
    eager = {name: imports(name, path, set(found), lazy=False) & set(found) for name, path in found.items()}
    state: dict[str, int] = {}
    cycles: list[str] = []

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        if state.get(name) == 1:
            cycles.append(" -> ".join([*trail[trail.index(name) :], name]))
            return
        state[name] = 1
        for target in sorted(eager[name]):
            walk(target, (*trail, name))
        state[name] = 2

    for name in sorted(eager):
        walk(name, ())
    assert cycles == []


def test_no_upward_import(graph: dict[str, set[str]]) -> None:
    upward = []
    for name, targets in graph.items():
        own = stage(name)
        for target in targets:
            other = stage(target)
            if own is not None and other is not None and other > own:
                upward.append(f"{name} imports {target}")
    assert upward == []


def test_converters_know_nothing_of_the_harness(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{n} -> {t}" for n, ts in graph.items() if n.startswith("converters") for t in ts if t.startswith("harness")
    ]
    assert wrong == []


def test_the_harness_knows_only_the_light_converters(graph: dict[str, set[str]]) -> None:
    allowed_heavy = ("harness.cli", "harness.tune")
    wrong = [
        f"{name} -> {target}"
        for name, targets in graph.items()
        if name.startswith("harness") and not name.startswith(allowed_heavy)
        for target in targets
        if target.startswith("converters") and target not in LIGHT_CONVERTERS
    ]
    assert wrong == []


def test_the_agent_imports_nothing_outside_itself(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} -> {target}"
        for name, targets in graph.items()
        if name.startswith("harness.agent")
        for target in targets
        if not target.startswith("harness.agent")
    ]
    assert wrong == []


# Programs that run in processes of their own: there is nobody else to print and to exit.
PROGRAMS = (
    "harness.agent",
    "converters.worker",
    "converters.export.faults",
    "harness.devices.emulators.inside",
    "harness.devices.emulators.watcher",
    "harness.devices.transport.testing.__main__",
)


def test_only_the_cli_prints_and_exits() -> None:
    wrong = []
    for name, path in modules().items():
        if name.startswith(("harness.cli", *PROGRAMS)):
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.exit", "exit"}
        ]
    assert wrong == []


def test_modules_are_short_and_say_their_job() -> None:
    wrong = []
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        if text and ast.get_docstring(ast.parse(text)) is None:
            wrong.append(f"{path.relative_to(ROOT)}: no docstring")
    assert wrong == []


HEAVY = (
    "tensorflow",
    "keras",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "scipy",
    "sqlalchemy",
    "plotly",
    "asyncssh",
    "pydantic",
    "numpy",
)


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = f"import sys, harness.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
