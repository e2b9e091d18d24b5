"""What all commands share: exit codes, where results live, how errors and progress are shown."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from harness.errors import HarnessError, SpecError

if TYPE_CHECKING:
    from harness.row import Row
    from harness.store import Store

EXIT_OK = 0
EXIT_UNMET = 1
EXIT_INPUT = 2
EXIT_DEVICE = 3
EXIT_PARTIAL = 4
EXIT_INTERRUPTED = 130

P = ParamSpec("P")
T = TypeVar("T")

ResultsOption = Annotated[
    Path,
    typer.Option("--results", envvar="HARNESS_RESULTS", help="Folder of the session store, logs and reports."),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", envvar="HARNESS_STORE", help="Store by SQLAlchemy URL instead of RESULTS/harness.sqlite."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; progress and messages go to stderr.")]
SessionArgument = Annotated[str, typer.Argument(help="Session: its id, a unique beginning of it, or 'latest'.")]
DEFAULT_RESULTS = Path("results")


def say(message: str) -> None:
    """A line for the person at the terminal; stdout stays clean for results."""
    typer.echo(message, err=True)


def screen() -> tuple[int | None, bool]:
    """Columns of the terminal on stdout and whether it takes colour; (None, False) where stdout is no terminal."""
    import shutil

    terminal = sys.stdout.isatty()
    return (shutil.get_terminal_size().columns if terminal else None), terminal


def emit_json(data: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False))


def _converter_error(error: Exception) -> bool:
    """Whether an error is one that `converters` raises about the user's input (imported only if already in use)."""
    known = []
    for module, name in (
        ("converters.errors", "ConversionInputError"),
        ("converters.dataset", "DatasetError"),
        ("converters.variant", "ManifestError"),
    ):
        if module in sys.modules:
            known.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(known))


def _disk_full(error: BaseException) -> bool:
    import errno

    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors into one line on stderr and the exit code that belongs to them; never a traceback for known causes."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except HarnessError as error:
            say(f"error: {error}")
            raise typer.Exit(EXIT_DEVICE if error.where in {"device", "store"} else EXIT_INPUT) from None
        except KeyboardInterrupt:
            say("interrupted; what was measured is in the store")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            if _converter_error(error):
                say(f"error: {error}")
                raise typer.Exit(EXIT_INPUT) from None
            if _disk_full(error):
                say(f"error: {error} — free some space (HARNESS_CACHE holds cached conversions) and run again")
                raise typer.Exit(EXIT_DEVICE) from None
            if type(error).__module__.split(".")[0] in {"typer", "click"}:
                raise  # its own way of ending a command
            say(
                f"internal error: {type(error).__name__}: {error} — this is a defect; the traceback is in {_traceback()}"
            )
            raise typer.Exit(EXIT_DEVICE) from None

    return wrapper


def _traceback() -> str:
    """Write the current exception's traceback to a file of its own; its path."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="harness-crash-", suffix=".txt", delete=False) as stream:
        traceback.print_exc(file=stream)
        return stream.name


def open_store(results: Path, url: str | None, *, create: bool = False) -> Store:
    """The session store. Raises SpecError where there is none yet and `create` is False."""
    from harness.store import Store

    if url is not None:
        return Store.open(url)
    path = results / "harness.sqlite"
    if create:
        results.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise SpecError(
            f"there are no sessions in {results}",
            remedy="measure something first, e.g. `harness demo`, or give --results",
        )
    return Store.open(path)


def session_folder(results: Path, session_id: str) -> Path:
    """Where a session's log and reports go."""
    return results / session_id


def exit_code_of(rows: list[Row]) -> int:
    """0 when all rows are ok or were refused by the support matrix; 3 when none is ok; else 4."""
    failed = [row for row in rows if row.status == "failed"]
    if not failed:
        return EXIT_OK
    return EXIT_PARTIAL if any(row.status == "ok" for row in rows) else EXIT_DEVICE


def limit_threads() -> None:
    """Keep numpy of this process to one thread: the host's own work must not fight the measured one on a local device."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
