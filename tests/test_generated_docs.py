from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_committed_documents_are_those_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # where a script finds its neighbours
    made = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))["documents"]()
    assert {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in made} == made, (
        "run scripts/make_docs.py"
    )
