"""What the documents promise: links lead somewhere, commands that say `run` are run, options named exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.experiment import load_experiment

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HARNESS = Path(sys.executable).with_name("harness")


def blocks(path: Path, info: str) -> list[str]:
    """Bodies of the fenced blocks whose info string is `info`."""
    return re.findall(
        rf"^```{re.escape(info)}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    dead = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert dead == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_named_in_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = []
    for line in re.findall(r"(?:^|`)harness ([a-z]+ [^`\n]*)", text, flags=re.MULTILINE):
        command, *words = line.split()
        module = ROOT / "harness" / "cli" / f"{command}.py"
        if not module.is_file():
            wrong.append(f"harness {command}")
            continue
        source = module.read_text(encoding="utf-8") + (ROOT / "harness" / "cli" / "common.py").read_text(
            encoding="utf-8"
        )
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", " ".join(words)):
            declared = f'"{option}' in source or f"{option[2:].replace('-', '_')}:" in source or f"/{option}" in source
            if not declared and option != "--help":
                wrong.append(f"harness {command} {option}")
    assert wrong == []


def test_experiments_in_the_documents_are_valid(tmp_path: Path) -> None:
    found = 0
    for path in DOCUMENTS:
        for text in blocks(path, "yaml"):
            if "devices:" in text:
                file = tmp_path / f"{found}.yaml"
                file.write_text(text, encoding="utf-8")
                load_experiment(file)
                found += 1
    assert found > 0


@pytest.mark.convert
@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "sh run")], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_say_run_are_run(path: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{HARNESS.parent}:{os.environ['PATH']}"}
    for script in blocks(path, "sh run"):
        done = subprocess.run(
            [shutil.which("sh") or "sh", "-eu", "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
