"""How the records of a session become rows of the store's tables and come back.

Below `harness.store`, which does the reading and writing; the tables are in `harness.store.tables`. Documents are JSON text;
arrays are blobs, laid out by `harness.store.codec`, so that a round trip is exact and a damaged blob is noticed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import (
    PROFILE_TIMES,
    Block,
    DeviceRecord,
    Evaluation,
    Failure,
    Load,
    OperatorTimes,
    Profile,
    Reference,
    Run,
    Session,
    VariantRecord,
)
from harness.store.codec import BlobError, pack, pack_samples, sum_samples, unpack, unpack_samples

Row = Mapping[Any, Any]


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
    document: dict[str, Any] = {
        "failure": None if run.failure is None else dataclasses.asdict(run.failure),
        "failed_variants": {name: dataclasses.asdict(failure) for name, failure in run.failed_variants.items()},
        "retries": run.retries,
        "environment": run.environment,
        "sensors": run.sensors,
    }
    if run.profiles:
        document["profiles"] = [dataclasses.asdict(profile) for profile in run.profiles]
    return {name: getattr(run, name) for name in _RUN_COLUMNS} | {"document": dump(document)}


def run_from_rows(row: Row, loads: Sequence[Load], blocks: Sequence[Block], evaluations: Sequence[Evaluation]) -> Run:
    """Inverse of `run_row`, with the parts of the run in their order."""
    document = json.loads(row["document"])
    return Run(
        **{name: row[name] for name in _RUN_COLUMNS},
        failure=_failure(document["failure"]),
        failed_variants={name: Failure(**data) for name, data in document["failed_variants"].items()},
        retries=document["retries"],
        environment=document["environment"],
        sensors=tuple(document["sensors"]),
        loads=tuple(loads),
        blocks=tuple(blocks),
        evaluations=tuple(evaluations),
        profiles=tuple(_profile(item) for item in document.get("profiles", ())),
    )


def _profile(data: Mapping[str, Any]) -> Profile:
    operators = tuple(
        OperatorTimes(
            **{**item, **{key: tuple(item[key]) for key in ("times_ns", "inputs", "outputs")}},
        )
        for item in data["operators"]
    )
    arrays = {key: tuple(data[key]) for key in (*PROFILE_TIMES, "notes")}
    return Profile(**{**data, **arrays, "operators": operators})


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


def load_from_row(row: Row) -> Load:
    """Inverse of `load_row`."""
    return Load(row["variant"], row["load_ns"], row["first_inference_ns"], **json.loads(row["document"]))


_BLOCK_COLUMNS = ("variant", "index", "phase", "started_ns", "wall_ns", "cpu_ns", "cpu_clock")
# What blocks came to know later, with the values that need no storing.
_BLOCK_EXTRAS = {
    field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    for field in dataclasses.fields(Block)
    if field.name not in _BLOCK_COLUMNS
}


def block_row(run_id: str, position: int, block: Block) -> dict[str, Any]:
    """One block of a run. Raises ValueError for samples that are not int64 or do not pair."""
    wall, cpu = block.wall_ns, block.cpu_ns
    if wall.dtype != np.int64 or cpu.dtype != np.int64 or wall.ndim != 1 or wall.shape != cpu.shape:
        raise ValueError(f"samples of {block.variant!r}: {wall.dtype} {wall.shape} and {cpu.dtype} {cpu.shape}")
    extras = {name: getattr(block, name) for name, usual in _BLOCK_EXTRAS.items() if getattr(block, name) != usual}
    return {
        "run_id": run_id,
        "position": position,
        "variant": block.variant,
        "round_index": block.index,
        "phase": block.phase,
        "started_ns": block.started_ns,
        "cpu_clock": block.cpu_clock,
        "samples": int(wall.size),
        "wall_ns": pack_samples(wall),
        "cpu_ns": pack_samples(cpu, wall),
        "document": dump(extras) if extras else None,
    }


def block_from_row(row: Row) -> Block:
    """Inverse of `block_row`, also of one that an older version wrote.

    Damage is found here, in either column, although the CPU times are only summed now and put together when somebody reads them.
    """
    samples, cpu_blob = row["samples"], row["cpu_ns"]
    wall = unpack_samples(row["wall_ns"], samples)
    # What is stored against the wall times must still find them as they are.
    wall.flags.writeable = False

    def cpu() -> NDArray[np.int64]:
        made = unpack_samples(cpu_blob, samples, wall)
        made.flags.writeable = False
        return made

    document, wall_sum = row.get("document"), int(wall.sum())
    return Block.with_later_cpu(
        cpu,
        (wall_sum, sum_samples(cpu_blob, samples, wall_sum)),
        variant=row["variant"],
        index=row["round_index"],
        phase=row["phase"],
        started_ns=row["started_ns"],
        wall_ns=wall,
        cpu_clock=row["cpu_clock"],
        **(_BLOCK_EXTRAS if document is None else _BLOCK_EXTRAS | json.loads(document)),
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


def evaluation_from_row(row: Row) -> Evaluation:
    """Inverse of `evaluation_row`."""
    described = json.loads(row["arrays"])
    top, outputs = (_array(row, name, described) for name in ("top", "outputs"))
    return Evaluation(row["variant"], row["rows"], row["outputs_sha256"], top=top, outputs=outputs)
