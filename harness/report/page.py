"""What the HTML page says, as plain data for its template: texts from here on, no more rows.

Place in the flow: arranged rows, session and samples → here → page.html.j2. Every string may come from a hostile model or
device: nothing is marked safe here, the template escapes all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from harness.records import DeviceRecord, SessionData
from harness.report import figures, ledger, units
from harness.report.arrange import Arrangement, DeviceGroup, Notes, absences, common_start, first_sentence, grades_used
from harness.report.cells import COLUMNS, DETAILS, Column, clean, columns_for, has_value, plain_header, variant_label
from harness.report.conversion import lineage_words
from harness.report.strips import Strips, strips_of
from harness.row import Row
from harness.table.sustained import Strip

Samples = Mapping[str, Mapping[str, Sequence[Any]]]
Medians = Mapping[tuple[str, str], Mapping[int, float]]
Context = dict[str, Any]

_CSS_CLASSES = {"tflite", "onnx", "openvino", "A", "B", "C", "invalid"}
_SCENARIO = ("virtual", "throughput", "sustained", "throttle", "mlperf")
_FIRST = ("variant", "latency", *_SCENARIO, "accuracy", "drop", "mae", "rmse", "size", "grade", "p90", "memory", "gzip")
_LONGEST = 400


def build(
    arranged: Arrangement,
    rows: Sequence[Row],
    data: SessionData | None,
    samples: Samples,
    medians: Medians,
    strips: Strips = MappingProxyType({}),
) -> Context:
    """The template's context without style and scripts; its key "plots" holds the figures by name."""
    columns = _columns(rows)
    notes, plots = Notes(), dict[str, figures.Figure]()
    start = common_start(rows)
    records = {} if data is None else {clean(record.name): record for record in data.devices}
    devices = [
        _device(f"device-{number}", group, columns, notes, start, records.get(clean(group.device)))
        | _plots(f"device-{number}", group, samples.get(group.device, {}), medians, start, plots)
        | _strips(f"device-{number}", group, strips.get(group.device, {}), start, plots)
        for number, group in enumerate(arranged.devices)
    ]
    everywhere = figures.sizes(rows, start)
    if everywhere is not None:
        plots["sizes"] = everywhere
    return {
        "title": clean(data.session.name) if data is not None else clean(rows[0].session) if rows else "no rows",
        "created": clean(data.session.created_at)[:16].replace("T", " ") + " UTC" if data is not None else None,
        "summary": _summary(rows, data),
        "warning": _warning(data),
        "version": clean(data.session.harness_version) if data is not None else None,
        "columns": columns,
        "start": start,
        "devices": devices,
        "sizes": "sizes" if everywhere is not None else None,
        "ledger": _ledger(rows, start),
        "refused": arranged.refused,
        "grades": [(grade, css(grade), meaning) for grade, meaning in grades_used(rows)],
        "notes": notes.items(),
        "absences": absences(rows),
        "session": _session(data),
        "plots": plots,
    }


def _columns(rows: Sequence[Row]) -> list[Column]:
    """What decides first, so that a narrow screen shows it without scrolling."""
    shown = [*columns_for(rows), *(column for column in DETAILS if has_value(column, rows))]
    return sorted(shown, key=lambda column: _FIRST.index(column.key) if column.key in _FIRST else len(_FIRST))


def css(name: str) -> str:
    """A class name for a format or grade the style sheet knows, "" for any other string."""
    return name.lower() if name in _CSS_CLASSES else ""


def _summary(rows: Sequence[Row], data: SessionData | None) -> list[str]:
    variants = {row.variant for row in rows if row.status == "ok"}
    bases = sorted({clean(row.base) for row in rows if row.base})
    facts = [f"base model {', '.join(bases)}"] if bases else []
    facts.append(f"{len(variants)} variant{'s' if len(variants) != 1 else ''} measured")
    if data is not None:
        facts += [
            f"protocol {clean(str(data.session.protocol.get('preset', 'unknown')))}",
            f"seed {data.session.seed}",
            f"session {clean(data.session.id)}",
        ]
    return facts


def _warning(data: SessionData | None) -> str | None:
    if data is None or data.session.status == "done":
        return None
    return {
        "running": "This session has not ended, or was killed: the figures are what had been measured until then.",
        "interrupted": "This session was interrupted: the figures are what had been measured until then.",
        "failed": "This session ended with a failure: the figures are what had been measured until then.",
    }.get(data.session.status, f"This session's status is “{clean(data.session.status)}”.")


def _device(
    identity: str,
    group: DeviceGroup,
    columns: Sequence[Column],
    notes: Notes,
    start: str,
    record: DeviceRecord | None,
) -> Context:
    counts = f"{len(group.ok)} measured" + (f", {len(group.failed)} failed" if group.failed else "")
    if record is not None and record.emulated:
        counts += ", emulated"
    return {
        "id": identity,
        "name": clean(group.device),
        "counts": counts,
        "formats": sorted({clean(row.format) for row in group.ok}),
        "rows": [_row(row, group, columns, notes, start) for row in group.ok],
        "failed": group.failures(),
        "facts": [] if record is None else _pairs({"transport": record.transport, **record.facts}),
        **_advice(group),
    }


def _advice(group: DeviceGroup) -> Context:
    advice = group.advice
    if advice is None:
        return {"sentence": None, "doubts": None, "winner": None, "tie": 0, "tiles": [], "excluded": [], "outside": 0}
    winner = next((row for row in group.ok if group.is_winner(row)), None)
    first, rest = first_sentence(advice.sentence)
    return {
        "sentence": first,
        "doubts": rest,
        "winner": None if winner is None else variant_label(winner),
        "tie": len(advice.tie),
        "tiles": [] if winner is None else _tiles(winner),
        "excluded": group.excluded(),
        "outside": len(advice.excluded),
    }


def _ledger(rows: Sequence[Row], start: str) -> Context | None:
    """The table of what was counted; None where nothing was."""
    shown = ledger.counted(rows)
    if not shown:
        return None
    columns = ledger.columns_of(shown)
    notes = Notes()  # of the cells of grades, which this table has not
    return {
        "title": ledger.TITLE,
        "note": ledger.NOTE,
        "columns": columns,
        "reasons": ledger.reasons(shown),
        "rows": [
            {
                "label": variant_label(row),
                "format_class": css(row.format),
                "name": _breakable(variant_label(row).removeprefix(start)),
                "cells": [_cell(row, column, notes, _whys(row)) for column in columns],
            }
            for row in shown
        ],
    }


def _whys(row: Row) -> dict[str, str]:
    """Why figures of a row are missing, by field."""
    return dict(entry.split(":", 1) for entry in row.null_reasons if ":" in entry)


def _tiles(row: Row) -> list[dict[str, str]]:
    """The figures of the winner, large."""
    tiles = []
    for key in ("latency", *_SCENARIO, "p90", "size", "memory", "accuracy", "drop", "mae", "rmse"):
        column = COLUMNS[key]
        main, more = _split(column.text(row))
        if main != units.NOT_AVAILABLE:
            tiles.append({"name": plain_header(column), "value": main, "more": more})
    return tiles


def _split(text: str) -> tuple[str, str]:
    """A figure and what stands in brackets behind it."""
    for bracket in (" [", " ("):
        main, found, rest = text.partition(bracket)
        if found:
            return main, bracket.strip() + rest
    return text, ""


def _row(row: Row, group: DeviceGroup, columns: Sequence[Column], notes: Notes, start: str) -> Context:
    winner, front = group.is_winner(row), group.on_front(row)
    whys = _whys(row)
    words = (variant_label(row), row.format, row.recipe, row.engine, row.precision, f"grade {row.grade}")
    return {
        "format": clean(row.format),
        "format_class": css(row.format),
        "variant": clean(row.variant),
        "words": " ".join(clean(word) for word in words if word).lower(),
        "winner": winner,
        "marked": winner or front,
        "mark": "★" if winner else "☆" if front else "",
        "mark_meaning": "recommended" if winner else "on the Pareto front" if front else "",
        "label": variant_label(row),
        "name": _breakable(variant_label(row).removeprefix(start)),
        "cells": [_cell(row, column, notes, whys) for column in columns],
    }


def _cell(row: Row, column: Column, notes: Notes, whys: Mapping[str, str]) -> Context:
    text, value = column.text(row), column.sort(row)
    cell: Context = {"key": column.key, "numeric": column.numeric, "value": value, "text": text}
    if column.key == "grade":
        return cell | {"grade_class": css(row.grade), "notes": notes.mark(row.grade_reasons)}
    main, more = ("", "") if text == units.NOT_AVAILABLE else _split(text)
    why = "; ".join(clean(whys[field]) for field in column.fields if field in whys)
    return cell | {"main": main, "more": more, "why": why}


def _breakable(name: str) -> list[str]:
    """A name in parts between which a line may break: after dots and underscores."""
    parts = [""]
    for character in name:
        parts[-1] += character
        if character in "._":
            parts.append("")
    return [part for part in parts if part]


def _plots(
    identity: str,
    group: DeviceGroup,
    samples: Mapping[str, Sequence[Any]],
    medians: Medians,
    start: str,
    plots: dict[str, figures.Figure],
) -> Context:
    """Add this device's figures to `plots`; return their names and words."""
    names: Context = {"trade_off": None, "distributions": None}
    trade_off, spread = figures.trade_off(group, start), figures.distributions(group, samples, medians, start)
    if trade_off is not None:
        plots[f"{identity}-trade-off"] = trade_off
        names["trade_off"] = f"{identity}-trade-off"
        quality = trade_off["layout"]["yaxis"]["title"]["text"].partition(" (")[0]
        time = trade_off["layout"]["xaxis"]["title"]["text"].partition(" (")[0].removeprefix("median ")
        names["trade_off_title"] = f"{quality[0].upper()}{quality[1:]} against {time}"
        names["trade_off_caption"] = (
            "Up and to the left is better. Horizontal bars: 95 % interval of the median over runs. "
            + ("Vertical bars: 95 % interval of the difference to the base model. " if quality == "accuracy" else "")
            + "Choose a point to find its row in the table."
        )
    if spread is not None:
        plots[f"{identity}-spread"] = spread
        names["distributions"] = f"{identity}-spread"
    return names


def _strips(
    identity: str, group: DeviceGroup, strips: Mapping[str, Strip], start: str, plots: dict[str, figures.Figure]
) -> Context:
    """Add the strips of this device's sustained runs to `plots`; return their names and words."""
    found = []
    for number, (title, caption, figure) in enumerate(strips_of(group, strips, start)):
        name = f"{identity}-strip-{number}"
        plots[name] = figure
        found.append({"plot": name, "title": title, "caption": caption})
    return {"strips": found}


def _session(data: SessionData | None) -> list[tuple[str, str]]:
    if data is None:
        return []
    session = data.session
    pairs = {
        "id": session.id,
        "created": session.created_at,
        "harness": session.harness_version,
        "seed": session.seed,
        "protocol": session.protocol,
        "environment": session.environment,
        "versions": _versions(data),
        "compression": {
            variant.name: lineage_words(variant.manifest.get("lineage") or ()) for variant in data.variants
        },
        "dataset sha256": None if data.reference is None else data.reference.dataset_sha256,
        "dataset rows": None if data.reference is None else data.reference.rows,
    }
    return _pairs(pairs)


def _versions(data: SessionData) -> dict[str, str]:
    """Engine and tool versions the runs and the variants' manifests name."""
    found: dict[str, set[str]] = {}
    for run in data.runs:
        if run.environment.get("engine_version"):
            found.setdefault(run.engine, set()).add(str(run.environment["engine_version"]))
    for variant in data.variants:
        tools = variant.manifest.get("tool_versions")
        for tool, version in (tools if isinstance(tools, Mapping) else {}).items():
            found.setdefault(str(tool), set()).add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as a flat list of names and texts, units put into words, what is empty left out."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{clean(str(key)).replace('_', ' ')}"
        if value is None or value in ("", {}, [], ()):
            continue
        if isinstance(value, Mapping):
            pairs += _pairs(value, f"{name}: ")
        else:
            pairs.append(_pair(str(key), name, value))
    return pairs


def _pair(key: str, name: str, value: Any) -> tuple[str, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and key.endswith("_bytes"):
        return name.removesuffix(" bytes"), units.format_bytes(value)
    if number and key.endswith("_ns"):
        return name.removesuffix(" ns"), units.format_ns(value)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        value = ", ".join(str(item) for item in value)
    text = clean(str(value))
    return name, text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
