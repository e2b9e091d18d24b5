"""`harness search`: the recipes that are best by accuracy, size, time …, found by trying them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PARTIAL,
    EXIT_UNMET,
    JsonOption,
    ResultsOption,
    StoreOption,
    emit_json,
    guarded,
    open_store,
    say,
    screen,
    session_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from converters.search.study import Event, Finished
    from converters.search.trial import Trial
    from harness.cli.show import LoadedSession
    from harness.experiment import LoadedExperiment
    from harness.report.search import StudyView
    from harness.store import Store
    from harness.tune.search import Planned

_WHY = {
    "trials": "all trials are made",
    "seconds": "the time is spent",
    "interrupted": "interrupted",
    "exhausted": "nothing is left that was not tried",
}


@guarded
def search(
    experiment: Annotated[
        Path, typer.Argument(help="The experiment, a YAML file with a 'search' section (docs/search).")
    ],
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="How many candidates are tried, those of earlier runs of the study included."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Who proposes: grid, random, tpe, gp, nsga2 or tensor_train.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at work at once; one at a time measures.")] = None,
    budget: Annotated[str | None, typer.Option(help="Begin no further trial after that time, e.g. 10m.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Measure trials on this device instead, if they are measured.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, help="How many of the best become variants, measured again on test rows.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a search that ended early, or beside one that runs: its id or 'latest'. No trial is repeated."
        ),
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse conversions by content.")] = True,
    json_: JsonOption = False,
) -> None:
    """Search for the best recipes: propose, convert, judge on validation rows, measure on the device; then the Pareto front, on test rows."""
    from harness.cli.common import limit_threads
    from harness.experiment import load_experiment
    from harness.tune.search import best, section_of

    limit_threads()
    loaded = load_experiment(experiment)
    changes = {
        "trials": trials,
        "sampler": sampler,
        "workers": workers,
        "budget": budget,
        "device": device,
        "keep": keep,
    }
    spec = section_of(loaded, experiment, changes)
    with open_store(results, store, create=True) as opened:
        planned, study_id = _begun(loaded, experiment, spec, opened, results, resume, cache=cache)
        if not json_:
            say(f"study {study_id}: {spec.trials} trials by {spec.sampler}")
        finished = _searched(planned, study_id, opened, results, quiet=json_)
        chosen = best(finished.trials, planned.task, spec.keep) if finished.why != "interrupted" and spec.keep else []
        view = _view(opened, study_id, chosen, why=_WHY[finished.why])
    _reported(view, results, as_json=json_)
    measured = None
    if chosen:
        measured = _measured(loaded, planned, chosen, results, store, cache=cache, quiet=json_)
    _shown(view, measured, results, as_json=json_)
    raise typer.Exit(_exit_code(view, finished, measured))


def _begun(
    loaded: LoadedExperiment,
    path: Path,
    spec: Any,
    store: Store,
    results: Path,
    resume: str | None,
    *,
    cache: bool,
) -> tuple[Planned, str]:
    """The search, and the study that remembers it: a new one, or the one to go on with. Raises SpecError when that is of another search."""
    from harness.cli.conversion import read_data
    from harness.errors import SpecError
    from harness.runner import new_session_id
    from harness.store.studies import StudyRecord, add_study, load_study, resolve_study
    from harness.tune.search import differences, plan

    experiment = loaded.experiment
    study_id = new_session_id(f"{experiment.name}-search") if resume is None else resolve_study(store, resume)
    dataset = None
    if experiment.data is not None:
        dataset = read_data(
            experiment.data,
            loaded.resolve(experiment.data.path),
            seed=experiment.seed,
            training=True,
            training_limit=loaded.training_limit,
        )
    planned = plan(loaded, path, spec, dataset, results / "searches" / study_id, cache=cache)
    if resume is None:
        add_study(store, StudyRecord(study_id, experiment.name, planned.content_sha256, planned.document))
        return planned, study_id
    record = load_study(store, study_id)
    if record.content_sha256 != planned.content_sha256:
        keys = ", ".join(differences({key: record.document.get(key) for key in planned.content}, planned.content))
        raise SpecError(
            f"study {study_id} is of another search: {keys or 'something'} changed since",
            remedy="begin a new one, without --resume",
        )
    return planned, study_id


def _searched(planned: Planned, study_id: str, store: Store, results: Path, *, quiet: bool) -> Finished:
    from harness.cli.progress import search_progress
    from harness.cli.session import log_to
    from harness.store.studies import SqlMemory
    from harness.tune.search import run

    with (
        log_to(session_folder(results, study_id)),
        search_progress(planned.spec.trials, quiet=quiet) as update,
        SqlMemory(store, study_id) as memory,
    ):
        return run(planned, memory, _notifier(planned, memory.trials, update))


def _notifier(
    planned: Planned, trials: Callable[[], list[Trial]], update: Callable[[int, int, str], None]
) -> Callable[[Event], None]:
    """Tells the bar what is tried and what was best so far."""
    from harness.report.search import best_words
    from harness.tune.search import front_of

    best = "none yet"

    def notify(event: Event) -> None:
        nonlocal best
        if event.kind == "ended":
            best = best_words(planned.task.objectives, front_of(trials(), planned.task))
        words = {"begun": "at", "rung": "goes on with", "ended": f"{event.trial.outcome.state}:"}[event.kind]
        update(event.ended, event.of, f"{best} · {words} {event.trial.candidate.recipe}")

    return notify


def study_view(store: Store, study_id: str) -> StudyView:
    """A stored study as reports want it. Raises SpecError."""
    return _view(store, study_id, [], why=None)


def _view(store: Store, study_id: str, chosen: list[Trial], *, why: str | None) -> StudyView:
    from converters.search.front import pareto
    from harness.report.search import StudyView
    from harness.search_section import objective_of, read_constraint
    from harness.store.studies import SqlMemory, load_study

    record = load_study(store, study_id)
    objectives = tuple(objective_of(name) for name in record.document["objectives"])
    constraints = tuple(read_constraint(text) for text in record.document["constraints"])
    trials = tuple(SqlMemory(store, study_id).trials())
    front = tuple(trial.number for trial in pareto(trials, objectives, constraints))
    return StudyView(
        id=study_id,
        name=record.name,
        created_at=record.created_at,
        objectives=objectives,
        constraints=constraints,
        trials=trials,
        front=front,
        kept=tuple(trial.number for trial in chosen),
        document=record.document,
        why=why,
    )


def write_study(view: StudyView, folder: Path) -> dict[str, Path]:
    """Write search.html, trials.csv and study.json; where each went."""
    from converters.search.front import best_so_far
    from harness.report.search_page import write_search

    return write_search(view, best_so_far(view.trials, view.objectives[0], view.constraints), folder)


def _reported(view: StudyView, results: Path, *, as_json: bool) -> None:
    """Show and write what was found, before the best are measured again: that takes a while."""
    from harness.report.search import render_search

    paths = write_study(view, session_folder(results, view.id))
    if as_json:
        return
    width, color = screen()
    typer.echo(render_search(view, width=width, color=color), nl=False)
    say(f"study: {view.id} ({view.why}) — `harness search EXPERIMENT --resume {view.id}` goes on")
    if "html" in paths:
        say(f"report: {paths['html']}")


def _measured(
    loaded: LoadedExperiment,
    planned: Planned,
    chosen: list[Trial],
    results: Path,
    store: str | None,
    *,
    cache: bool,
    quiet: bool,
) -> LoadedSession:
    """The best as ordinary variants, in one ordinary session, with accuracy on the test rows."""
    from harness.cli.run import measure_experiment
    from harness.tune.search import with_recipes

    if not quiet:
        say(f"the best {len(chosen)} and the base model, measured together, accuracy on the test rows:")
    final = with_recipes(loaded, chosen, planned.setup.device)
    return measure_experiment(
        final,
        results=results,
        store_url=store,
        out=results / "variants" / loaded.experiment.name,
        use_cache=cache,
        quiet=quiet,
    )


def _shown(view: StudyView, measured: LoadedSession | None, results: Path, *, as_json: bool) -> None:
    if not as_json:
        if measured is not None:
            from harness.cli.session import finish

            finish(measured, results, as_json=False, constraints=None)
        return
    from harness.cli.show import write_reports
    from harness.report.search import view_to_dict

    document = view_to_dict(view)
    if measured is not None:
        measured = measured.chosen(None)
        write_reports(measured, session_folder(results, measured.session_id))
        document |= {"session": measured.session_id, "rows": measured.row_dicts()}
    emit_json(document)


def _exit_code(view: StudyView, finished: Finished, measured: LoadedSession | None) -> int:
    from harness.cli.common import exit_code_of

    if finished.why == "interrupted":
        return EXIT_INTERRUPTED
    if not view.front:
        return EXIT_UNMET
    if measured is not None and (code := exit_code_of(measured.rows)) != EXIT_OK:
        return code
    return EXIT_PARTIAL if any(trial.outcome.state == "failed" for trial in view.trials) else EXIT_OK
