"""Loads and saves the models that pass between steps: safely, with no layers but Keras's own and this package's.

Used by the chain and, for what a chain made, by `converters.export.prepare`. Keras at call time only.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

from converters.errors import BaseModelError, ToolError

# Modules of this package that register layers with Keras. A model from a user never needs one of them.
LAYER_MODULES: tuple[str, ...] = ("converters.compress.fake_quant",)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_METADATA = "metadata.json"


def register_layers() -> None:
    """Let Keras find this package's own layers by name."""
    for name in LAYER_MODULES:
        importlib.import_module(name)


def load_step_model(path: Path) -> Any:
    """The keras.Model that an earlier step saved. Raises ToolError."""
    from converters.export.keras_base import load_keras

    register_layers()
    try:
        return load_keras(path)
    except BaseModelError as error:
        raise ToolError(f"the model that the step saved cannot be loaded: {error.message}") from error


def save_step_model(model: Any, path: Path) -> None:
    """Write a .keras file whose bytes follow from the model alone: no dates. Raises OSError, ToolError."""
    draft = path.with_name(f"draft-{path.name}")
    try:
        model.save(draft)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ToolError(f"the model after the step cannot be saved: {' '.join(str(error).split())}") from error
    with zipfile.ZipFile(draft) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name == _METADATA:
                data = json.dumps(json.loads(data) | {"date_saved": "1980-01-01@00:00:00"}).encode()
            target.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    draft.unlink()
