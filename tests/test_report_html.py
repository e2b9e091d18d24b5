"""The HTML page as a text: complete, alone, and deaf to what hostile names tell it. test_report_browser.py looks at it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import logging
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_samples import HOSTILE, advice, failed, many, refused, row, samples
from sample_session import sample_session

import harness.report
from harness.choose import Constraints, recommend
from harness.errors import SpecError
from harness.records import DeviceRecord, SessionData
from harness.report import bundle, figures, html
from harness.report.arrange import DeviceGroup
from harness.table import build_rows, run_medians

ADVICE = [advice("laptop"), advice("board")]
LINKING = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background", "ping", "cite"}


class Page(HTMLParser):
    """Elements with their attributes, the text of scripts, and all text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif not self.inside:
            self.words.append(data)

    def script(self, identity: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == identity)


@pytest.fixture(scope="module")
def session() -> SessionData:
    return sample_session(rounds=1, runs=2, block_samples=3, block_s=0.0)


@pytest.fixture(scope="module")
def text(session: SessionData) -> str:
    rows = many()
    return html.render_html(rows, ADVICE, session, samples(rows))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def hostile(session: SessionData) -> str:
    """Hostile strings wherever a model, a device, a tool or a file can put one."""
    rows = [
        row(variant=HOSTILE, base=HOSTILE, format=HOSTILE, recipe=HOSTILE, device=HOSTILE, engine=HOSTILE,
            precision=HOSTILE, grade=HOSTILE, grade_reasons=(HOSTILE,), null_reasons=(f"latency_p99_ns: {HOSTILE}",)),
        failed(variant=HOSTILE + "f", device=HOSTILE, error=HOSTILE, remedy=HOSTILE),
        refused(variant=HOSTILE + "r", device=HOSTILE, error=HOSTILE),
    ]  # fmt: skip
    told = dataclasses.replace(
        advice(HOSTILE),
        winner=HOSTILE,
        runner_up=HOSTILE,
        sentence=HOSTILE,
        pareto=(HOSTILE,),
        excluded=((HOSTILE, (HOSTILE,)),),
    )
    data = dataclasses.replace(
        session,
        session=dataclasses.replace(session.session, name=HOSTILE, environment={HOSTILE: [HOSTILE]}, status=HOSTILE),
        devices=(DeviceRecord(HOSTILE, "ssh", facts={HOSTILE: {HOSTILE: HOSTILE}}),),
    )
    return html.render_html(rows, [told], data, samples(rows))


@pytest.mark.parametrize("which", ["text", "hostile"])
def test_only_our_scripts_can_run(which: str, request: pytest.FixtureRequest) -> None:
    page = Page(request.getfixturevalue(which))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    allowed = re.findall(r"'(sha256-[^']+)'", policy.partition("script-src")[2].partition(";")[0])
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    library = gzip.decompress(base64.b64decode(page.script("library"))).decode()
    runnable = [code for attributes, code in page.scripts if "type" not in attributes]
    assert len(runnable) == 1
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (library, *runnable)]
    assert sorted(allowed) == sorted(hashes)
    assert "plotly.js" in library[:200]


@pytest.mark.parametrize("which", ["text", "hostile"])
def test_nothing_is_loaded_from_anywhere(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form", "img", "video", "audio"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in LINKING:
                assert (value or "").startswith(("#", "data:,")), (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_strings_are_shown_not_obeyed(hostile: str) -> None:
    page = Page(hostile)
    assert len(page.scripts) == 3
    assert any('<script>alert("x")</script>' in word for word in page.words)
    assert "\x1b" not in hostile
    drawn = json.dumps(json.loads(page.script("figures")))
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "<a" not in drawn


def test_the_page_says_what_a_reader_needs(page: Page) -> None:
    words = " ".join(" ".join(page.words).split())
    for needed in (
        "Deploy dscnn.tflite.static_wi8_ai8 on laptop: the fastest within the limits.",
        "p90 2.64 ms > 2.50 ms",
        "2026-11-21 22:15 UTC",
        "session 20261121-221500-a1b2c3",
        "seed 0",
        "protocol standard",
        "ondevice-harness 0.1.0",
        "Cortex-A72, 4 cores",
        "8.00 GB",
        "onnxruntime 1.31.1",
        "not converged: half-width 4.1 % > 3 %",
        "all rules of the measurement were met",
        "ToolCrashed: the converter was killed by SIGSEGV",
        "no kernel has 4-bit activations",
        "p90: n/a (n=30)",
        "methodology",
    ):
        assert needed in words, needed


def test_tables_work_without_script(page: Page) -> None:
    rows = [a for tag, a in page.elements if tag == "tr" and "data-variant" in a]
    assert [a["data-variant"] for a in rows[:2]] == ["dscnn.tflite.static_wi8_ai8", "dscnn.openvino.static_wi8_ai8"]
    assert len(rows) == 10
    headers = [a for tag, a in page.elements if tag == "th" and a.get("scope") == "col"]
    assert [a.get("aria-sort") for a in headers].count("ascending") == 2


def test_every_plot_has_its_figure_and_units_on_its_axes(page: Page) -> None:
    places = [a["data-plot"] for _, a in page.elements if "data-plot" in a]
    drawn = json.loads(page.script("figures"))
    assert sorted(filter(None, places)) == sorted(drawn)
    assert len(places) == 5
    for name, figure in drawn.items():
        assert re.search(r"\((ms|µs|kB|MB)", figure["layout"]["xaxis"]["title"]["text"]), name
    assert drawn["device-0-trade-off"]["layout"]["yaxis"]["title"]["text"] == "accuracy (%)"


def test_the_page_is_small(text: str) -> None:
    assert len(text.encode()) < 3_000_000


def test_an_unfinished_session_says_so(session: SessionData) -> None:
    killed = dataclasses.replace(session, session=dataclasses.replace(session.session, status="running"))
    assert "has not ended, or was killed" in html.render_html(many(), ADVICE, killed)


@pytest.mark.parametrize("rows", [[], [failed()], [refused()], [row(latency_median_ns=None, accuracy=None)]])
def test_little_is_enough_for_a_page(rows: list[object]) -> None:
    assert "<!doctype html>" in html.render_html(rows)  # type: ignore[arg-type]


def test_rendering_imports_no_plotly_and_no_rich() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import report_samples as s; from harness.report.html import render_html;"
        "render_html(s.many(), [s.advice()]); print([m for m in ('plotly', 'rich', 'scipy', 'sqlalchemy') if m in sys.modules])"
    )
    root = Path(harness.report.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"ondevice-harness\[report\]"):
        html.render_html(many())


# Figures


def group(*rows: object) -> DeviceGroup:
    return DeviceGroup("laptop", tuple(rows), (), advice())  # type: ignore[arg-type]


def test_interval_bars_reach_to_the_interval() -> None:
    figure = figures.trade_off(group(row()), "")
    assert figure is not None
    trace = next(t for t in figure["data"] if t["name"] == "TFLite")
    assert trace["x"] == [pytest.approx(2.1043315)]
    assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(2.081)
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(2.139)
    # A drop of 0.31 points, −0.12 to 0.74: the accuracy bar goes up by 0.43 and down by 0.43.
    assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(88.34 + 0.43)
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(88.34 - 0.43)


def test_latency_is_logarithmic_only_when_it_spreads() -> None:
    near = figures.trade_off(group(row("a"), row("b", latency_median_ns=9e6)), "")
    far = figures.trade_off(group(row("a"), row("b", latency_median_ns=90e6)), "")
    assert near is not None
    assert far is not None
    assert near["layout"]["xaxis"].get("type") != "log"
    assert far["layout"]["xaxis"]["type"] == "log"
    low, high = far["layout"]["xaxis"]["range"]
    assert low < np.log10(2.1) < np.log10(90) < high


def test_a_regression_is_drawn_with_its_error_upside_down() -> None:
    figure = figures.trade_off(group(row(accuracy=None, rmse=0.12), row("b", accuracy=None, rmse=0.13)), "")
    assert figure is not None
    assert figure["layout"]["yaxis"]["title"]["text"].startswith("RMSE")
    assert figure["layout"]["yaxis"]["autorange"] == "reversed"


def test_without_accuracy_size_stands_against_latency_as_in_the_front() -> None:
    figure = figures.trade_off(group(row(accuracy=None, agreement=None)), "")
    assert figure is not None
    assert figure["layout"]["yaxis"]["title"]["text"] == "size (kB)"
    assert figure["layout"]["yaxis"]["autorange"] == "reversed"
    assert figures.trade_off(group(row(accuracy=None, agreement=None, size_bytes=None)), "") is None


def test_sizes_are_drawn_once_for_all_devices_smallest_on_top() -> None:
    figure = figures.sizes(many(), "dscnn.")
    assert figure is not None
    file = next(t for t in figure["data"] if t["name"] == "file")
    assert file["y"][-1] == "tflite.static_wi8_ai8"
    assert file["x"] == sorted(file["x"], reverse=True)
    assert len(file["y"]) == 5


def test_thinning_keeps_the_ends_and_the_quartiles() -> None:
    data = np.random.default_rng(1).lognormal(size=20_000) * 1e6
    kept = figures.thin(data)
    assert len(kept) == 200
    assert (kept[0], kept[-1]) == (int(data.min()), int(data.max()))
    assert np.percentile(kept, [25, 50, 75]) == pytest.approx(np.percentile(data, [25, 50, 75]), rel=0.02)
    assert figures.thin(np.array([3, 1, 2])) == [1, 2, 3]


def contrast(color: str, page: str) -> float:
    def luminance(value: str) -> float:
        parts = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(color), luminance(page)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_marks_are_seen_on_the_light_and_the_dark_page() -> None:
    style = (Path(harness.report.__file__).parent / "page.css").read_text()
    cards = re.findall(r"--card: (#[0-9a-f]{6})", style)
    assert len(cards) == 2
    for name, color, _ in figures.STYLES.values():
        for card in cards:
            assert contrast(color, card) >= 3, (name, card)
    assert len({symbol for _, _, symbol in figures.STYLES.values()}) == 3


# Files


def test_bundle_writes_all_reports(tmp_path: Path, session: SessionData) -> None:
    paths = bundle.write_reports(tmp_path / "new", session.session.id, many(), ADVICE, session)
    assert {kind: path.name for kind, path in paths.items()} == bundle.NAMES
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(bundle.NAMES.values())
    drawn = json.loads(Page(paths["html"].read_text(encoding="utf-8")).script("figures"))
    assert drawn["device-0-spread"]["data"]
    assert "demo" in paths["markdown"].read_text(encoding="utf-8").splitlines()[0]


def test_bundle_without_the_extra_leaves_out_the_page(
    tmp_path: Path, session: SessionData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bundle, "unavailable", lambda: "needs jinja2")
    # NNCF, imported by other tests of this process, raises the root logger's level.
    with caplog.at_level(logging.WARNING):
        paths = bundle.write_reports(tmp_path, session.session.id, many(), ADVICE, session)
    assert sorted(paths) == ["csv", "json", "markdown"]
    assert "needs jinja2" in caplog.text


def test_bundle_leaves_the_old_report_when_the_disk_is_full(
    tmp_path: Path, session: SessionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.json").write_text("old")

    def full(self: Path, text: str, **_: object) -> int:
        with self.open("w") as stream:
            stream.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SpecError, match="No space left on device"):
        bundle.write_reports(tmp_path, session.session.id, many(), ADVICE, session)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]
    assert (tmp_path / "rows.json").read_text() == "old"


@pytest.mark.parametrize("task", ["classification", "regression", "none"])
def test_a_whole_session_becomes_a_report(tmp_path: Path, task: str) -> None:
    data = sample_session(task=task, rounds=2, block_samples=4, block_s=0.0, broken_device=True)
    rows = build_rows(data)
    advised = recommend(rows, Constraints(), run_medians=run_medians(data))
    paths = bundle.write_reports(tmp_path, data.session.id, rows, advised, data)
    page = Page(paths["html"].read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    assert "Deploy dscnn." in words
    assert "Nothing qualifies on pi-lost" in words
    drawn = json.loads(page.script("figures"))
    against = {"classification": "accuracy (%)", "regression": "RMSE (in the output's unit)", "none": "size (kB)"}
    assert drawn["device-0-trade-off"]["layout"]["yaxis"]["title"]["text"] == against[task]
    medians = next(t for t in drawn["device-0-spread"]["data"] if t["name"] == "median of one run")
    assert len(medians["x"]) == 12 * 6
    assert "Deploy dscnn" in paths["markdown"].read_text(encoding="utf-8")
