from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_committed_schemas_are_those_of_the_models() -> None:
    schemas = runpy.run_path(str(ROOT / "scripts" / "make_schemas.py"))["schemas"]()
    assert {name: (ROOT / "docs" / "schemas" / name).read_text(encoding="utf-8") for name in schemas} == schemas
