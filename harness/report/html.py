"""Rows, recommendations and session → one HTML file that needs nothing else: no network, no second file. `render_page`: any page of ours.

Place in the flow: harness.report.page says what the page holds, the template puts it into markup with autoescaping, and
this module adds style, scripts and the policy that lets nothing else run: the page's two scripts are named in a
Content-Security-Policy by their SHA-256, and loading from anywhere is forbidden.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.records import SessionData
from harness.report.arrange import HINTS_TITLE, arrange
from harness.report.cells import clean
from harness.report.page import Medians, Samples, build
from harness.report.strips import Strips
from harness.row import Row

if TYPE_CHECKING:
    from harness.choose import Recommendation
    from harness.report.advice import Advice

_HERE = Path(__file__).parent
_LIBRARY = Path("package_data") / "plotly.min.js"
_REMEDY = "pip install 'ondevice-harness[report]'"


def unavailable() -> str | None:
    """Why no HTML report can be made here, or None when it can: its two packages are an extra."""
    missing = [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]
    return f"the HTML report needs {' and '.join(missing)}: {_REMEDY}" if missing else None


def render_html(
    rows: Iterable[Row],
    recommendations: Iterable[Recommendation | Advice] = (),
    data: SessionData | None = None,
    samples: Samples | None = None,
    medians: Medians | None = None,
    differences: Sequence[str] = (),
    strips: Strips | None = None,
    hints: Sequence[str] = (),
) -> str:
    """The whole page.

    `data` adds session, versions and device facts. `samples`: device → variant → one int64 array of ns per run, and
    `medians`: (variant, device) → round → ns, as harness.table gives them, for the distributions. `differences`: paragraphs of
    `harness.report.differences`. `strips`: device → variant → its sustained run (`harness.table.sustained`). `hints`: lines of `harness.hints`. Raises SpecError when the extra `report` is not installed.
    """
    _need()
    rows = list(rows)
    context = build(arrange(rows, recommendations), rows, data, samples or {}, medians or {}, strips or {})
    context["differences"] = list(differences)
    context["hints"] = [clean(text) for text in hints]
    context["hints_title"] = HINTS_TITLE
    return render_page("page.html.j2", context)


def _need() -> None:
    reason = unavailable()
    if reason is not None:
        raise SpecError(reason)


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """A page of ours: the template with `context`, whose key "plots" holds the figures by name. Raises SpecError when the extra `report`
    is not installed."""
    _need()
    import jinja2
    from markupsafe import Markup

    packed, library_hash = _library()
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only what this project wrote, or JSON whose "<" is written as \u003c, goes in unescaped.
    return environment.get_template(template).render(
        context,
        policy=_policy(library_hash, _hash(script)),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        figures=Markup(_json(context["plots"])),  # noqa: S704
        library=Markup(packed),  # noqa: S704
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _policy(*hashes: str) -> str:
    """Nothing may be loaded; only the scripts with these hashes run. plotly.js sets styles in place and draws pictures
    for download from data: and blob: addresses, which are no network."""
    scripts = " ".join(f"'{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _library() -> tuple[str, str]:
    """plotly.js, gzipped, in base64, and the hash of its text. The package is found, not imported: that is slow."""
    spec = importlib.util.find_spec("plotly")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    path = next((Path(folder) / _LIBRARY for folder in folders if (Path(folder) / _LIBRARY).is_file()), None)
    if path is None:
        raise SpecError("the installed plotly package holds no plotly.min.js", remedy=_REMEDY)
    text = path.read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode(), _hash(text)
