"""One session from variants to reports: what `demo`, `run` and `bench` have in common once the variants exist."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.common import exit_code_of, limit_threads, open_store, say, session_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converters.variant import Variant
    from harness.choose import Constraints
    from harness.cli.show import LoadedSession
    from harness.plan import MeasurementProtocol
    from harness.profiles import DeviceProfile
    from harness.records import Reference, VariantRecord


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure. `records` holds all variants, `variants` those that exist; `inputs` None: random input. `resume`: the
    session to go on with instead of a new one: its id, a beginning of it, or 'latest'."""

    name: str
    records: Sequence[VariantRecord]
    variants: Mapping[str, Variant]
    devices: Sequence[DeviceProfile]
    protocol: MeasurementProtocol
    threads: int = 1
    precision: str = "f32"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    inputs: Mapping[str, NDArray[Any]] | None = None
    reference: Reference | None = None
    experiment: Mapping[str, Any] = field(default_factory=dict)
    resume: str | None = None


@contextmanager
def log_to(folder: Path) -> Iterator[Path]:
    """All log records of the harness and its libraries go to `harness.log` in the session's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "harness.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield path
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def measure(work: Measurement, *, results: Path, store_url: str | None, quiet: bool) -> LoadedSession:
    """Run the session and give back what the store then has. KeyboardInterrupt leaves the finished runs there."""
    limit_threads()
    from harness.cli import show
    from harness.cli.progress import measurement_progress
    from harness.runner import SessionSpec, new_session_id, run_session

    spec = SessionSpec(
        name=work.name,
        variants=tuple(work.records),
        artifacts=dict(work.variants),
        devices=tuple(work.devices),
        protocol=work.protocol,
        threads=work.threads,
        precision=work.precision,
        options=dict(work.options),
        seed=work.seed,
        inputs=None if work.inputs is None else dict(work.inputs),
        reference=work.reference,
        experiment=dict(work.experiment),
    )
    with open_store(results, store_url, create=True) as store:
        before = None if work.resume is None else store.load(store.resolve(work.resume))
        session_id = new_session_id(work.name) if before is None else before.session.id
        with log_to(session_folder(results, session_id)), measurement_progress(quiet=quiet) as on_event:
            logs = session_folder(results, session_id) / "loadgen"
            run_session(dataclasses.replace(spec, id=session_id, logs=logs), store, on_event, resume=before)
        return show.load(store, session_id)


def finish(loaded: LoadedSession, results: Path, *, as_json: bool, constraints: Constraints | None) -> int:
    """Show the rows and the recommendation, write the reports, and say with which exit code to end."""
    from harness.cli import show

    loaded = loaded.chosen(constraints)
    paths = show.write_reports(loaded, session_folder(results, loaded.session_id))
    if as_json:
        show.rows_as_json(loaded)
    else:
        show.table(loaded)
    if "html" in paths:
        say(f"report: {paths['html']}")
    say(
        f"session: {loaded.session_id} — `harness choose latest --max-…`, `harness report latest`, `harness table latest --json`"
    )
    return exit_code_of(loaded.rows)
