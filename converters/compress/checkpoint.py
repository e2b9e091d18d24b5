"""Checkpoints of a training: every variable, and how far it got, in one file that is there whole or not at all.

Used by `converters.compress.training`. A file is an .npz without pickled objects; its name is changed into place at the
end, so a kill at any moment leaves the last whole one. A checkpoint of another training (other data, seed, rate, epochs or
shapes) is not taken up.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import Array

_PROGRESS, _FINGERPRINT = "progress", "fingerprint"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training got. `losses`, `scores`: one per epoch done. `best`: the epoch (from 0) whose weights are kept
    besides, or None. `seconds`: spent so far. `finished`: nothing is left to do but to take the weights."""

    losses: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    best: int | None = None
    seconds: float = 0.0
    finished: bool = False
    stopped_early: bool = False

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.losses)


def values(variables: Sequence[Any]) -> list[Array]:
    """Copies of Keras variables, each in its own dtype."""
    return [np.array(variable.numpy()) for variable in variables]


def restore(variables: Sequence[Any], arrays: Sequence[Array]) -> None:
    """Give Keras variables back what `values` copied."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def save(path: Path, fingerprint: str, progress: Progress, groups: Mapping[str, Sequence[Array]]) -> None:
    """Write `groups` of arrays and the progress to `path`. Raises OSError; an older file is then still whole."""
    arrays = {f"{group}:{index}": _plain(array) for group, found in groups.items() for index, array in enumerate(found)}
    for key, text in ((_PROGRESS, json.dumps(asdict(progress))), (_FINGERPRINT, fingerprint)):
        arrays[key] = np.frombuffer(text.encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes a name for the flag
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def load(path: Path, fingerprint: str, dtypes: Mapping[str, Sequence[str]]) -> tuple[Progress, dict[str, list[Array]]]:
    """What `save` wrote: the progress, and each group's arrays in the `dtypes` named. Raises FileNotFoundError when there
    is none, and ValueError when it is damaged or belongs to another training."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if data[_FINGERPRINT].tobytes().decode() != fingerprint:
                raise ValueError(f"{path}: a checkpoint of another training")
            told = json.loads(data[_PROGRESS].tobytes())
            groups = {
                group: [_as(data[f"{group}:{index}"], name) for index, name in enumerate(names)]
                for group, names in dtypes.items()
                if f"{group}:0" in data.files
            }
    except (KeyError, zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: a damaged checkpoint: {error}") from error
    told |= {key: tuple(told[key]) for key in ("losses", "scores")}
    return Progress(**told), groups


def _plain(array: Array) -> Array:
    """bfloat16 is no dtype of numpy's own: its bits go as integers."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _as(array: Array, dtype: str) -> Array:
    if dtype != "bfloat16":
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)
