"""Why the same artifact answers differently on two devices, in plain words: a heading's worth for every report.

Place in the flow: `harness.compare.differences` → here → terminal, Markdown and HTML. Formats only; the figures come from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.compare.differences import Difference, Setting
from harness.report import units
from harness.report.cells import clean

TITLE = "Outputs across devices"
ENGINE_NAMES = {"litert": "LiteRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_MOST = 8
_ROUNDING = (
    "sums of 8-bit products are exact, but scaling them back to 8 bits is not: kernels round with fixed-point"
    " multiplication on one architecture and in floating point on another, and one step of an 8-bit output is large enough"
    " to change a class."
)
_VNNI = {"avx512_vnni", "avx_vnni"}
_DOT = {"asimddp", "i8mm"}
_X86 = {"x86_64", "AMD64", "i686"}
# Instructions worth naming, and in this order.
_TELLING = ("avx2", "fma", "avx512f", *sorted(_VNNI), "avx512_bf16", "amx_int8", "neon", "asimd", "asimdhp", *sorted(_DOT), "bf16", "sve")  # fmt: skip


def paragraphs(differences: Iterable[Difference]) -> list[str]:
    """For each pair of devices: what is identical, what changed and by how much, and why. [] with fewer than two devices.

    Devices of which the same is to be said are named together.
    """
    found: dict[tuple[str, str], list[Difference]] = {}
    for item in differences:
        found.setdefault((item.first.device, item.other.device), []).append(item)
    together: dict[tuple[Difference, ...], list[str]] = {}
    for (_, device), items in found.items():
        nameless = tuple(replace(item, other=replace(item.other, device="")) for item in items)
        together.setdefault(nameless, []).append(clean(device))
    return [text for items, devices in together.items() for text in _pair(items, devices)]


def _pair(items: Sequence[Difference], devices: Sequence[str]) -> list[str]:
    others = ", ".join(devices[:-1]) + " and " + devices[-1] if len(devices) > 1 else devices[0]
    first, other = items[0].first, replace(items[0].other, device=others)
    items = [replace(item, other=replace(item.other, device=others)) for item in items]
    names = f"{clean(first.device)} and {others}" if len(devices) == 1 else f"{clean(first.device)} against {others}"
    differing = [item for item in items if not item.identical]
    if not differing:
        count = f"all {len(items)} variants" if len(items) > 1 else clean(items[0].variant)
        return [f"{names}: the outputs of {count} are identical, bit for bit, on all {items[0].rows} rows."]
    same = len(items) - len(differing)
    told = f"the outputs of {same} of {len(items)} variants are identical, bit for bit; " if same else ""
    shown = "; ".join(_numbers(item) for item in differing[:_MOST])
    more = f"; and {len(differing) - _MOST} more" if len(differing) > _MOST else ""
    places = f"{clean(first.device)} is {_place(first)}, {clean(other.device)} is {_place(other)}."
    return [
        f"{names}: {told}these differ: {shown}{more}. {places}",
        f"Why outputs differ between {names}: {' '.join(_causes(differing))}",
    ]


def _numbers(item: Difference) -> str:
    engine = ENGINE_NAMES.get(item.first.engine, clean(item.first.engine))
    version = f" {clean(item.first.version)}" if item.first.version and item.first.version == item.other.version else ""
    head = f"{clean(item.variant)} ({engine}{version})"
    if item.changed is not None:
        words = "no row" if item.changed == 0 else f"{item.changed} of {item.rows} rows"
        accuracy = ""
        if item.accuracies is not None and item.changed:
            accuracy = (
                f" (accuracy {units.format_share(item.accuracies[0])} and {units.format_share(item.accuracies[1])})"
            )
        return f"{head}: {words} changed class{accuracy}"
    if item.largest is not None:
        return f"{head}: by {item.largest:.2g} of the outputs' spread at most"
    return f"{head}: by how much is not known"


def _place(setting: Setting) -> str:
    isa = ", ".join(name for name in _TELLING if name in setting.isa)
    return (clean(setting.machine) or "of unknown architecture") + (f" with {isa}" if isa else "")


def _integer(item: Difference) -> bool:
    """Whether it is computed in integers: static and dynamic recipes are, weight-only ones are not."""
    recipe = item.recipe or ""
    return recipe.startswith(("static", "dynamic")) or item.first.precision in ("i8", "int8", "u8")


def _causes(items: Sequence[Difference]) -> list[str]:
    first, other = items[0].first, items[0].other
    causes = []
    for engine, versions in {
        item.first.engine: (item.first.version, item.other.version)
        for item in items
        if item.first.version != item.other.version
    }.items():
        told = f"{clean(versions[0]) or 'unknown'} on the one and {clean(versions[1]) or 'unknown'} on the other"
        causes.append(f"{ENGINE_NAMES.get(engine, clean(engine))} is {told}, and versions bring other kernels.")
    lowered = [item for item in items if item.first.precision != item.other.precision]
    if lowered:
        pair = f"{clean(lowered[0].first.precision) or 'unknown'} and {clean(lowered[0].other.precision) or 'unknown'}"
        causes.append(f"Computed in different precisions ({pair}): {_some(lowered)}.")
    if (first.machine, first.isa) == (other.machine, other.isa):
        left = "cache sizes, by which engines choose kernels, or a kernel that is not deterministic"
        causes.append(
            f"Both have the same architecture and extensions; what{' else' if causes else ''} can differ: {left}."
        )
        return causes
    floats = [item for item in items if not _integer(item)]
    if floats:
        causes.append(
            f"Floating point ({_some(floats)}): each architecture has its own kernels, which add the same products in"
            " another order and width, with or without fused multiply-add; every sum is rounded differently in its last"
            " bits. A class changes only where two scores are nearly equal."
        )
    causes += _integers([item for item in items if _integer(item)])
    return causes


def _integers(items: Sequence[Difference]) -> list[str]:
    if not items:
        return []
    sides = (items[0].first, items[0].other)
    causes = [
        f"Integers ({_some(items)}): {_ROUNDING}",
    ]
    saturating = [side for side in sides if side.machine in _X86 and side.isa and not _VNNI & set(side.isa)]
    if saturating and any(item.first.engine != "litert" for item in items):
        causes.append(
            f"{clean(saturating[0].device)} has no VNNI: ONNX Runtime and OpenVINO add pairs of products in 16 bits"
            " there, which saturates with full-range weights."
        )
    dotted = [clean(side.device) for side in sides if _DOT & set(side.isa)]
    if dotted:
        causes.append(f"{' and '.join(dotted)}: int8 dot-product instructions, whose kernels add in 32 bits.")
    return causes


def _some(items: Sequence[Difference]) -> str:
    names = [clean(item.variant) for item in items]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
