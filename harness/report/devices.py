"""What is connected, and what a doctor found → text for a terminal or a pipe.

Place in the flow: `harness.devices.discovery` and `harness.devices.doctor` → here → a string that `cli` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.devices.facts.words import battery_words, cluster_words, cpu_list
from harness.report import units
from harness.report.cells import clean
from harness.report.textgrid import GridColumn, Paper, print_grid

if TYPE_CHECKING:
    from harness.devices.discovery import Found
    from harness.devices.doctor import Check

_MARKS = {"ready": "✓", "available": "–", "ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}
_STYLES = {"available": "dim", "not installed": "dim", "warning": "yellow", "failed": "red", "skipped": "dim"}


def render_devices(
    found: Sequence[Found], remarks: Sequence[str], *, width: int | None = None, color: bool = False
) -> str:
    """A line for each device, then what to do for those that cannot be used now."""
    paper = Paper(width, color=color)
    answering = [device for device in found if device.state == "ready"]
    if answering:
        print_grid(paper, _columns(answering), ["✓"] * len(answering), [""] * len(answering))
    silent = [device for device in found if device.state not in {"ready", "available", "not installed"}]
    if silent:
        paper.line()
        paper.line("Not usable now", "bold")
    for device in silent:
        paper.paragraph(f"{device.name}: {device.state}: {clean(device.reason) or ''}", "red", lead="✗ ")
        if device.remedy:
            paper.paragraph(clean(device.remedy), lead="  → ")
    emulated = [device for device in found if device.state in {"available", "not installed"}]
    if emulated:
        paper.line()
        paper.line("Emulators, started when they are used", "bold")
    for device in emulated:
        missing = f": {device.reason} → {device.remedy}" if device.reason else ""
        paper.paragraph(f"{device.name}: {device.description}{missing}", _STYLES[device.state], lead="– ")
    if remarks:
        paper.line()
    for remark in remarks:
        paper.paragraph(remark, "dim")
    return paper.text()


def _columns(devices: Sequence[Found]) -> list[GridColumn]:
    facts = [device.facts for device in devices]
    columns = [
        GridColumn("device", tuple(clean(device.name) for device in devices)),
        GridColumn("model", tuple(_model(entry) for entry in facts), folds=True),
        GridColumn("SoC", tuple(clean(entry.get("soc", "")) for entry in facts)),
        GridColumn("CPUs", tuple(_cpus(entry) for entry in facts)),
        GridColumn("memory", tuple(_bytes(entry.get("memory_total_bytes")) for entry in facts), right=True),
        GridColumn("system", tuple(_system(entry) for entry in facts)),
        GridColumn("battery", tuple(battery_words(entry["battery"]) if "battery" in entry else "" for entry in facts)),
        GridColumn("°C", tuple(_celsius(entry) for entry in facts), right=True),
        GridColumn("engines", tuple(_engines(device) for device in devices)),
    ]
    return [column for column in columns if any(column.texts)]


def _model(facts: Mapping[str, Any]) -> str:
    """The model; of a virtual machine also that it is one."""
    model, virtual = str(facts.get("model", "")), facts.get("virtual")
    if virtual is not None and str(virtual).lower() not in model.lower():
        return clean(f"{model} on {virtual}" if model else f"virtual machine ({virtual})") or ""
    return clean(model) or ""


def _cpus(facts: Mapping[str, Any]) -> str:
    return clean(_cpu_words(facts)) or ""


def _cpu_words(facts: Mapping[str, Any]) -> str:
    cpu, count = str(facts.get("cpu", "")), facts.get("cpus")
    return cpu if "×" in cpu or count is None else f"{count} × {cpu or 'CPU'}"


def _bytes(value: int | None) -> str:
    return "" if value is None else units.format_bytes(value)


def _system(facts: Mapping[str, Any]) -> str:
    return clean(str(facts.get("os") or facts.get("kernel") or "").partition(" (")[0]) or ""


def _celsius(facts: Mapping[str, Any]) -> str:
    return f"{facts['temperature_c']:.0f}" if "temperature_c" in facts else ""


def _engines(device: Found) -> str:
    if device.engines is None:
        return "?"
    names = ", ".join(device.engines) or "none"
    return f"{names} (bundle)" if device.runtime == "bundle" and device.engines else names


def render_device(device: Found, *, width: int | None = None, color: bool = False) -> str:
    """All that is known of one device, a fact on each line."""
    paper = Paper(width, color=color)
    paper.line(f"{clean(device.name)}  {device.state}", "bold")
    pairs: list[tuple[str, str]] = [("reached", f"{device.transport}, {device.where}")]
    if device.description:
        pairs.append(("described as", device.description))
    if device.engines is not None:
        versions = [f"{name} {version}".strip() for name, version in device.engines.items()]
        pairs.append(("runtime", f"{device.runtime}: {', '.join(versions) or 'no engine'}"))
    pairs += _facts(device.facts)
    indent = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        paper.paragraph(clean(text) or "", lead=f"  {name:<{indent}}  ")
    if device.reason:
        paper.paragraph(f"{clean(device.reason)}", "red", lead="✗ ")
    if device.remedy:
        paper.paragraph(clean(device.remedy) or "", lead="  → ")
    return paper.text()


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts in words, in the order of `describe`."""
    pairs = []
    for key, value in facts.items():
        name = key.replace("_", " ")
        if key == "clusters":
            pairs += [(f"CPU {cpu_list(entry['cpus'])}", _cluster(entry, facts.get("cpu"))) for entry in value]
        elif key == "battery":
            details = [f"{sub.replace('_', ' ')} {item}" for sub, item in value.items() if not isinstance(item, list)]
            plugged = ", ".join(value.get("plugged", ())) or "nothing"
            pairs.append((name, f"{battery_words(value)}; plugged: {plugged}; {', '.join(details)}"))
        elif key == "temperatures":
            pairs.append((name, ", ".join(f"{entry['name']} {entry['c']:g} °C" for entry in value)))
        elif key == "page_bytes":
            pairs.append(("memory pages", f"{value // 1024} KiB"))
        elif key.endswith("_bytes"):
            pairs.append((name.removesuffix(" bytes"), units.format_bytes(value)))
        elif isinstance(value, Mapping):
            pairs.append((name, ", ".join(f"{sub}: {_plain(item)}" for sub, item in value.items())))
        elif key not in {"temperature_c", "temperature_sensor", "clock_s"}:
            pairs.append((name, _plain(value)))
    return pairs


def _cluster(entry: Mapping[str, Any], cpu: str | None) -> str:
    words = cluster_words(entry, cpu)
    if "khz" in entry:
        words += f", now {entry['khz'] / 1e6:.3g} GHz"
    if "governor" in entry:
        words += f", governor {entry['governor']}"
    if "offline" in entry:
        words += f", switched off: {cpu_list(entry['offline'])}"
    return words


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def render_checks(name: str, checks: Sequence[Check], *, width: int | None = None, color: bool = False) -> str:
    """A line for each check, with what to do below those that are not ok; then the verdict."""
    paper = Paper(width, color=color)
    paper.line(name, "bold")
    indent = max((len(check.name) for check in checks), default=0)
    for check in checks:
        lead = f"{_MARKS[check.status]} {check.name:<{indent}}  "
        paper.paragraph(clean(check.found) or "", _STYLES.get(check.status, ""), lead=lead)
        if check.remedy and check.status != "ok":
            paper.paragraph(clean(check.remedy) or "", lead=" " * indent + "    → ")
    failed = sum(check.status == "failed" for check in checks)
    warned = sum(check.status == "warning" for check in checks)
    if failed:
        paper.line(f"{failed} of {len(checks)} checks failed: this device cannot be measured on yet", "red")
    else:
        paper.line(
            f"ready to be measured on; {warned} warning{'s' if warned != 1 else ''}"
            if warned
            else "ready to be measured on"
        )
    return paper.text()
