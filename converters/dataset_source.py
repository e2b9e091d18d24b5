"""Where rows come from: an npz read with care, or arrays in memory → a `Source`. Read by `dataset.py`; numpy only.

Keys: `x, y` (calibration rows are split off), or `x_train, y_train, x_test, y_test`, or `x_test, y_test` alone. Optional:
`calibration`, `calibration_labels`, `class_names`, `preprocessing` (a JSON text), and any `*_index` (provenance, ignored).
A model with several inputs has one array per input name: `x:ids, x:mask`, `x_test:ids, x_test:mask`, `calibration:ids, …`.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from converters.preprocessing import Array, DatasetError, did_you_mean

MAX_BYTES = 4 * 2**30
ROW_GROUPS = ("x", "x_train", "x_test", "calibration")
LABEL_OF = {"x": "y", "x_train": "y_train", "x_test": "y_test", "calibration": "calibration_labels"}
KNOWN = (*ROW_GROUPS, *LABEL_OF.values(), "class_names", "preprocessing")
SOLE_INPUT = "x"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Labelled rows of one purpose. `take(indices)` gives those rows as stored, one array [n, …] per input name."""

    where: str  # for messages: "x_test", or a folder
    count: int
    labels: Array | None
    take: Callable[[Array], dict[str, Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """All that the data hold. `divide` says that calibration rows must be split off `test`, which holds all rows."""

    test: Split
    train: Split | None = None
    calibration: Split | None = None
    divide: bool = False
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read_npz(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """The known arrays of an npz. Nothing is unpickled, and no array is read whose declared size breaks the limit.

    Raises DatasetError: not an npz, truncated, object or structured arrays, unknown keys, more than `max_bytes` in all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_members(archive, path, max_bytes)
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise DatasetError(
            f"{path}: not an npz, or a damaged one ({error})", remedy="save it with numpy.savez"
        ) from error
    except (ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error, SyntaxError) as error:
        raise DatasetError(f"{path}: cannot be read ({first_line(error)})") from error


def _read_members(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> dict[str, Array]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise DatasetError(f"{path}: holds two arrays of the same name")
    check_keys(list(members), str(path))
    wanted = {name: info for name, info in members.items() if not name.endswith("_index")}
    total = 0
    for name, info in wanted.items():
        with archive.open(info) as stream:
            size, header = _declared(stream, f"{path}: {name}")
        if size + header != info.file_size:
            raise DatasetError(f"{path}: {name} declares {size} bytes but holds {info.file_size - header}")
        total += size
    if total > max_bytes:
        raise DatasetError(
            f"{path}: declares {total / 2**20:,.0f} MiB of arrays, the limit is {max_bytes / 2**20:,.0f} MiB",
            remedy="store fewer rows, or store images as uint8",
        )
    arrays = {}
    for name, info in wanted.items():
        with archive.open(info) as stream:
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _declared(stream: IO[bytes], where: str) -> tuple[int, int]:
    """Bytes of the array and bytes of its header, by the header alone."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise DatasetError(f"{where}: npy version {version} is not for plain arrays")
    if dtype.hasobject or dtype.names is not None:
        raise DatasetError(f"{where}: holds Python objects or records", remedy="store plain numbers, rows of one shape")
    if any(side < 0 for side in shape):
        raise DatasetError(f"{where}: declares a negative shape {shape}")
    return math.prod(shape) * dtype.itemsize, stream.tell()


def check_keys(names: list[str], where: str) -> None:
    """Raise DatasetError for a key nobody reads, with the likely one."""
    for name in names:
        group, colon, rest = name.partition(":")
        if colon and group in ROW_GROUPS and rest:
            continue
        if name not in KNOWN and not name.endswith("_index"):
            raise DatasetError(f"{where}: unknown key {name!r}", remedy=did_you_mean(name, KNOWN))


def source_from_arrays(arrays: Mapping[str, Array], where: str) -> Source:
    """A Source of arrays by key (see the module's docstring). Raises DatasetError for keys or shapes that disagree."""
    check_keys(list(arrays), where)
    splits = {group: _split(arrays, group, where) for group in ROW_GROUPS}
    whole, train, test = splits["x"], splits["x_train"], splits["x_test"]
    if whole is not None and (train is not None or test is not None):
        raise DatasetError(f"{where}: has x and also x_train or x_test", remedy="keep either x, y or the four arrays")
    rows = whole or test
    if rows is None:
        raise DatasetError(f"{where}: has no x and no x_test", remedy="store x, y or x_train, y_train, x_test, y_test")
    _check_alike([split for split in splits.values() if split is not None])
    return Source(
        test=rows,
        train=train,
        calibration=splits["calibration"],
        divide=whole is not None and splits["calibration"] is None,
        class_names=_class_names(arrays.get("class_names"), where),
        preprocessing=_embedded_preprocessing(arrays.get("preprocessing"), where),
    )


def _split(arrays: Mapping[str, Array], group: str, where: str) -> Split | None:
    """The rows and labels of a group, or None when it has no rows."""
    inputs = {
        SOLE_INPUT if name == group else name.partition(":")[2]: _native(array, f"{where}: {name}")
        for name, array in arrays.items()
        if name == group or name.startswith(group + ":")
    }
    labels = arrays.get(LABEL_OF[group])
    if not inputs:
        if labels is not None:
            raise DatasetError(f"{where}: has {LABEL_OF[group]} but no {group}")
        return None
    if group in arrays and len(inputs) > 1:
        raise DatasetError(f"{where}: has {group} and also {group}:<input>", remedy="name every input, or none")
    counts = {len(array) for array in inputs.values()}
    if len(counts) > 1:
        raise DatasetError(f"{where}: the inputs of {group} have {' and '.join(map(str, sorted(counts)))} rows")
    count = counts.pop()
    if count == 0 or any(array.size == 0 for array in inputs.values()):
        raise DatasetError(f"{where}: {group} is empty")
    if labels is not None and (labels.ndim == 0 or len(labels) != count):
        have = len(labels) if labels.ndim else 1
        raise DatasetError(f"{where}: {group} has {count} rows, {LABEL_OF[group]} has {have}")
    return Split(
        where=group,
        count=count,
        labels=None if labels is None else np.asarray(labels),
        take=lambda indices: {name: array[indices] for name, array in inputs.items()},
    )


def _native(array: Array, where: str) -> Array:
    """Rows as plain numbers in this machine's byte order."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DatasetError(f"{where}: must be numbers with one row per example, not {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_alike(splits: list[Split]) -> None:
    """Names, shapes and types of the rows must be the same in every split."""
    first, *others = splits
    have = {name: (x.shape[1:], x.dtype) for name, x in first.take(np.arange(1)).items()}
    for split in others:
        other = {name: (x.shape[1:], x.dtype) for name, x in split.take(np.arange(1)).items()}
        if set(other) != set(have):
            raise DatasetError(f"{first.where} has the inputs {sorted(have)}, {split.where} has {sorted(other)}")
        for name, (shape, dtype) in other.items():
            if (shape, dtype) != have[name]:
                raise DatasetError(
                    f"rows of {first.where} are {have[name][1]} {sides(have[name][0])}, "
                    f"rows of {split.where} are {dtype} {sides(shape)}",
                    remedy="store both the same way",
                )


def _class_names(array: Array | None, where: str) -> tuple[str, ...]:
    if array is None:
        return ()
    if array.dtype.kind not in "US" or array.ndim != 1:
        raise DatasetError(f"{where}: class_names must be a list of text")
    text = array.astype(np.str_) if array.dtype.kind == "U" else np.char.decode(array, "utf-8")
    return tuple(str(name) for name in text)


def _embedded_preprocessing(array: Array | None, where: str) -> dict[str, Any] | None:
    if array is None:
        return None
    try:
        data = json.loads(str(array)) if array.ndim == 0 and array.dtype.kind == "U" else None
    except ValueError as error:
        raise DatasetError(f"{where}: preprocessing is not JSON ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{where}: preprocessing must be a text with one JSON object")
    return data


def sides(shape: tuple[int | None, ...]) -> str:
    """A row's shape as people write it: 28×28×1."""
    return "×".join("?" if side is None else str(side) for side in shape) or "a single number"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
