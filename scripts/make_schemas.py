"""Write the JSON Schemas of the files a user writes into docs/schemas (a test holds them against the models)."""

from __future__ import annotations

import json
from pathlib import Path

from harness.experiment import Experiment
from harness.profiles import DeviceProfile

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"
MODELS = {"experiment": Experiment, "device-profile": DeviceProfile}


def schemas() -> dict[str, str]:
    """File name -> text."""
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, model in MODELS.items()
    }


if __name__ == "__main__":
    for file_name, text in schemas().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
