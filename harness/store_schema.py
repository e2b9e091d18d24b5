"""The store's tables, and how records become their rows and come back.

Below `harness.store`, which does the reading and writing. Documents are JSON text; arrays are blobs: zlib over the
little-endian bytes, with dtype and shape beside them, so that a round trip is exact and a damaged blob is noticed.

Schema history (STORE_SCHEMA):
  1  first: session, variant, device, run, load, block, evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from harness.records import (
    Block,
    DeviceRecord,
    Evaluation,
    Failure,
    Load,
    Reference,
    Run,
    Session,
    VariantRecord,
)

STORE_SCHEMA = 1

Row = Mapping[Any, Any]

METADATA = sa.MetaData()
_TEXT = sa.Text
_BIG = sa.BigInteger


def _document(name: str = "document") -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _of_session() -> sa.Column[Any]:
    return sa.Column("session_id", sa.ForeignKey("session.id", ondelete="CASCADE"), primary_key=True)


def _of_run() -> tuple[sa.Column[Any], sa.Column[Any]]:
    parent = sa.ForeignKey("run.id", ondelete="CASCADE")
    return sa.Column("run_id", parent, primary_key=True), sa.Column("position", sa.Integer, primary_key=True)


VERSION = sa.Table("harness_store", METADATA, sa.Column("version", sa.Integer, primary_key=True))
SESSIONS = sa.Table(
    "session",
    METADATA,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, nullable=False, index=True),
    sa.Column("created_at", _TEXT, nullable=False, index=True),
    sa.Column("harness_version", _TEXT, nullable=False),
    sa.Column("seed", _BIG, nullable=False),
    sa.Column("status", _TEXT, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    _document("protocol"),
    _document("experiment"),
    _document("environment"),
    sa.Column("reference", _TEXT),
    sa.Column("labels", sa.LargeBinary),
    sa.Column("base_top", sa.LargeBinary),
    sa.Column("base_outputs", sa.LargeBinary),
)
VARIANTS, DEVICES = (
    sa.Table(
        name,
        METADATA,
        _of_session(),
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        _document(),
    )
    for name in ("variant", "device")
)
RUNS = sa.Table(
    "run",
    METADATA,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("session_id", sa.ForeignKey("session.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("device", _TEXT, nullable=False),
    sa.Column("engine", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("started_at", _TEXT, nullable=False),
    sa.Column("duration_s", sa.Double, nullable=False),
    sa.Column("status", _TEXT, nullable=False),
    _document(),
)
LOADS = sa.Table(
    "load",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("load_ns", _BIG, nullable=False),
    sa.Column("first_inference_ns", _BIG),
    _document(),
)
BLOCKS = sa.Table(
    "block",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("round_index", sa.Integer, nullable=False),
    sa.Column("phase", _TEXT, nullable=False),
    sa.Column("started_ns", _BIG, nullable=False),
    sa.Column("cpu_clock", _TEXT, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("wall_ns", sa.LargeBinary, nullable=False),
    sa.Column("cpu_ns", sa.LargeBinary, nullable=False),
)
EVALUATIONS = sa.Table(
    "evaluation",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("outputs_sha256", _TEXT, nullable=False),
    _document("arrays"),
    sa.Column("top", sa.LargeBinary),
    sa.Column("outputs", sa.LargeBinary),
)


class BlobError(ValueError):
    """A stored array that does not hold what its row says."""


def pack(array: NDArray[Any]) -> bytes:
    """An array's little-endian bytes, compressed. Level 1: samples are noise, a higher level buys 2 % for much time."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return zlib.compress(little.tobytes(), 1)


def unpack(blob: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array again, writable and in native byte order. Raises BlobError when the bytes do not fit dtype and shape."""
    kind = np.dtype(dtype)
    expected = math.prod(shape) * kind.itemsize
    if kind.kind not in "iufb" or expected < 0:
        raise BlobError(f"an array of {dtype} {list(shape)} is none of ours")
    try:
        # Never more than was promised is decompressed, whatever a hostile file holds.
        engine = zlib.decompressobj()
        raw = engine.decompress(blob, expected + 1)
    except zlib.error as error:
        raise BlobError(f"a stored array cannot be decompressed: {error}") from error
    if len(raw) != expected or not engine.eof:
        raise BlobError(f"a stored array has {len(raw)} bytes, not the {expected} of {dtype} {list(shape)}")
    return np.frombuffer(raw, dtype=kind.newbyteorder("<")).astype(kind, copy=True).reshape(tuple(shape))


def _plain(value: Any) -> Any:
    """What numpy values become in a document."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in a stored document")


def dump(value: Any) -> str:
    """JSON text with keys in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _failure(data: Mapping[str, Any] | None) -> Failure | None:
    return None if data is None else Failure(**data)


def _describe(arrays: Mapping[str, NDArray[Any] | None]) -> dict[str, Any]:
    return {name: [str(a.dtype), list(a.shape)] for name, a in arrays.items() if a is not None}


def _array(row: Row, name: str, described: Mapping[str, Any]) -> NDArray[Any] | None:
    if name not in described:
        return None
    if row[name] is None:
        raise BlobError(f"the array {name!r} is missing")
    dtype, shape = described[name]
    return unpack(row[name], dtype, shape)


def session_row(session: Session) -> dict[str, Any]:
    """A session's own columns."""
    documents = {name: dump(getattr(session, name)) for name in ("protocol", "experiment", "environment")}
    plain = ("id", "name", "created_at", "harness_version", "seed", "status", "schema_version")
    return {name: getattr(session, name) for name in plain} | documents


def session_from_row(row: Row) -> Session:
    """Inverse of `session_row`."""
    documents = {name: json.loads(row[name]) for name in ("protocol", "experiment", "environment")}
    plain = ("id", "name", "created_at", "harness_version", "seed", "status", "schema_version")
    return Session(**{name: row[name] for name in plain}, **documents)


def reference_columns(reference: Reference | None) -> dict[str, Any]:
    """A reference's columns in its session's row."""
    if reference is None:
        return {"reference": None, "labels": None, "base_top": None, "base_outputs": None}
    arrays = {name: getattr(reference, name) for name in ("labels", "base_top", "base_outputs")}
    document = {
        "task": reference.task,
        "rows": reference.rows,
        "dataset_sha256": reference.dataset_sha256,
        "class_names": list(reference.class_names),
        "arrays": _describe(arrays),
    }
    return {"reference": dump(document)} | {name: None if a is None else pack(a) for name, a in arrays.items()}


def reference_from_row(row: Row) -> Reference | None:
    """Inverse of `reference_columns`."""
    if row["reference"] is None:
        return None
    document = json.loads(row["reference"])
    arrays = {name: _array(row, name, document["arrays"]) for name in ("labels", "base_top", "base_outputs")}
    return Reference(
        task=document["task"],
        rows=document["rows"],
        dataset_sha256=document["dataset_sha256"],
        class_names=tuple(document["class_names"]),
        **arrays,
    )


def variant_json(variant: VariantRecord) -> str:
    """A variant's document."""
    return dump(dataclasses.asdict(variant))


def variant_from_json(text: str) -> VariantRecord:
    """Inverse of `variant_json`."""
    data = json.loads(text)
    return VariantRecord(**{**data, "failure": _failure(data["failure"])})


def device_json(device: DeviceRecord) -> str:
    """A device's document."""
    return dump(dataclasses.asdict(device))


def device_from_json(text: str) -> DeviceRecord:
    """Inverse of `device_json`."""
    data = json.loads(text)
    return DeviceRecord(**{**data, "failure": _failure(data["failure"])})


_RUN_COLUMNS = ("id", "session_id", "device", "engine", "kind", "round", "started_at", "duration_s", "status")


def run_row(run: Run) -> dict[str, Any]:
    """A run's own columns, without its parts."""
    document = {
        "failure": None if run.failure is None else dataclasses.asdict(run.failure),
        "failed_variants": {name: dataclasses.asdict(failure) for name, failure in run.failed_variants.items()},
        "retries": run.retries,
        "environment": run.environment,
        "sensors": run.sensors,
    }
    return {name: getattr(run, name) for name in _RUN_COLUMNS} | {"document": dump(document)}


def run_from_rows(row: Row, loads: Sequence[Row], blocks: Sequence[Row], evaluations: Sequence[Row]) -> Run:
    """Inverse of `run_row`, `load_row`, `block_row` and `evaluation_row`."""
    document = json.loads(row["document"])
    return Run(
        **{name: row[name] for name in _RUN_COLUMNS},
        failure=_failure(document["failure"]),
        failed_variants={name: Failure(**data) for name, data in document["failed_variants"].items()},
        retries=document["retries"],
        environment=document["environment"],
        sensors=tuple(document["sensors"]),
        loads=tuple(_load(item) for item in loads),
        blocks=tuple(_block(item) for item in blocks),
        evaluations=tuple(_evaluation(item) for item in evaluations),
    )


def load_row(run_id: str, position: int, load: Load) -> dict[str, Any]:
    """One load of a run."""
    return {
        "run_id": run_id,
        "position": position,
        "variant": load.variant,
        "load_ns": load.load_ns,
        "first_inference_ns": load.first_inference_ns,
        "document": dump({"facts": load.facts, "memory": load.memory}),
    }


def _load(row: Row) -> Load:
    return Load(row["variant"], row["load_ns"], row["first_inference_ns"], **json.loads(row["document"]))


def block_row(run_id: str, position: int, block: Block) -> dict[str, Any]:
    """One block of a run. Raises ValueError for samples that are not int64 or do not pair."""
    wall, cpu = block.wall_ns, block.cpu_ns
    if wall.dtype != np.int64 or cpu.dtype != np.int64 or wall.ndim != 1 or wall.shape != cpu.shape:
        raise ValueError(f"samples of {block.variant!r}: {wall.dtype} {wall.shape} and {cpu.dtype} {cpu.shape}")
    return {
        "run_id": run_id,
        "position": position,
        "variant": block.variant,
        "round_index": block.index,
        "phase": block.phase,
        "started_ns": block.started_ns,
        "cpu_clock": block.cpu_clock,
        "samples": int(wall.size),
        "wall_ns": pack(wall),
        "cpu_ns": pack(cpu),
    }


def _block(row: Row) -> Block:
    shape = [row["samples"]]
    return Block(
        variant=row["variant"],
        index=row["round_index"],
        phase=row["phase"],
        started_ns=row["started_ns"],
        wall_ns=unpack(row["wall_ns"], "int64", shape),
        cpu_ns=unpack(row["cpu_ns"], "int64", shape),
        cpu_clock=row["cpu_clock"],
    )


def evaluation_row(run_id: str, position: int, evaluation: Evaluation) -> dict[str, Any]:
    """One evaluation of a run."""
    arrays = {"top": evaluation.top, "outputs": evaluation.outputs}
    return {
        "run_id": run_id,
        "position": position,
        "variant": evaluation.variant,
        "rows": evaluation.rows,
        "outputs_sha256": evaluation.outputs_sha256,
        "arrays": dump(_describe(arrays)),
    } | {name: None if array is None else pack(array) for name, array in arrays.items()}


def _evaluation(row: Row) -> Evaluation:
    described = json.loads(row["arrays"])
    top, outputs = (_array(row, name, described) for name in ("top", "outputs"))
    return Evaluation(row["variant"], row["rows"], row["outputs_sha256"], top=top, outputs=outputs)
