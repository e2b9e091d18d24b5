"""The HTML page in a real browser: it draws, sorts and filters, says no error and asks the network for nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, advice, many, row, samples
from sample_session import sample_session

from harness.report.html import render_html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the Python package selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1600",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield opened
    opened.quit()


def show(browser: Any, text: str, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    path.write_text(text, encoding="utf-8")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.plots"))


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    rows = many()
    data = sample_session(rounds=1, runs=2, block_samples=3, block_s=0.0)
    text = render_html(rows, [advice(), advice("board")], data, samples(rows))
    show(browser, text, tmp_path_factory.mktemp("report") / "report.html")
    return browser


def column(page: Any, index: int) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll('#device-0 tbody tr')].filter((row) => row.checkVisibility())"
        ".map((row) => row.cells[arguments[0]].innerText.split('\\n')[0].trim())",
        index,
    )


def headers(page: Any) -> list[Any]:
    return page.find_elements("css selector", "#device-0 thead th")


def test_it_draws_without_an_error_or_a_request(page: Any) -> None:
    assert page.execute_script("return document.documentElement.dataset.plots") == "drawn"
    assert [entry for entry in page.get_log("browser") if entry["level"] != "INFO"] == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # Chromium's own first pages (its new tab) may still be loading; what counts is what the report's document asks for.
    asked = [params["request"]["url"] for params in sent if params["documentURL"] == page.current_url]
    assert asked, "the log of requests must at least have the page itself"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    plots = page.find_elements("css selector", "[data-plot]")
    assert len(plots) == 5
    for plot in plots:
        assert plot.find_elements("css selector", "svg.main-svg")
    for kind, count in (("#device-0 .scatterlayer .trace", 5), ("#device-0 .boxlayer .trace", 5), ("#sizes .bars", 2)):
        assert len(page.find_elements("css selector", kind)) == count, kind


def test_sorting_by_click_and_by_key(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    names = [header.text.split("\n")[0].strip() for header in headers(page)]
    size = names.index("size")
    button = headers(page)[size].find_element("css selector", "button")
    button.click()
    assert column(page, size) == ["62.0 kB", "120 kB", "132 kB", "169 kB", "169 kB"]
    assert headers(page)[size].get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert column(page, size) == ["169 kB", "169 kB", "132 kB", "120 kB", "62.0 kB"]
    assert headers(page)[size].get_attribute("aria-sort") == "descending"
    assert [header.get_attribute("aria-sort") for header in headers(page)].count(None) == len(names) - 1
    p90 = next(index for index, name in enumerate(names) if name.startswith("p90"))
    for expected in ("1.25 ms", "2.64 ms"):
        headers(page)[p90].find_element("css selector", "button").click()
        assert column(page, p90)[0] == expected
        assert column(page, p90)[-1] == "n/a"


def test_filtering(page: Any) -> None:
    section = page.find_element("id", "device-0")
    box, count = section.find_element("css selector", ".filter"), section.find_element("css selector", ".count")
    box.send_keys("fp32 onnx")
    assert sorted(column(page, 0)) == ["onnx.fp32", "onnx.weight_only_wi4_afp32"]
    assert count.text == "2 of 5 shown"
    box.clear()
    box.send_keys(" ")
    section.find_element("css selector", ".front").click()
    assert len(column(page, 0)) == 3
    section.find_element("css selector", ".front").click()
    section.find_element("css selector", ".format option:nth-child(2)").click()
    assert {name.partition(".")[0].split()[-1] for name in column(page, 0)} == {"onnx"}
    section.find_element("css selector", ".format option:nth-child(1)").click()
    assert count.text == "5 of 5 shown"
    assert len(page.find_elements("css selector", "#device-1 tbody tr:not([hidden])")) == 5


def test_a_narrow_screen_does_not_scroll_sideways(page: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        WebDriverWait(page, 10).until(lambda p: p.find_element("css selector", ".plot svg").size["width"] <= 360)
        width = page.execute_script("return document.documentElement.scrollWidth")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360


def test_text_is_readable_in_light_and_dark(page: Any) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen[scheme] = page.execute_script(
            "const fill = (name) => getComputedStyle(document.querySelector(name)).fill;"
            "return [getComputedStyle(document.body).color, fill('.plot .xtick text'), fill('.plot .annotation-text')]"
        )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen["light"][0] == seen["light"][1] == seen["light"][2]
    assert seen["dark"][0] == seen["dark"][1] == seen["dark"][2]
    assert seen["light"][0] != seen["dark"][0]


def test_a_click_on_a_point_shows_its_row(page: Any) -> None:
    page.execute_script(
        "const plot = document.querySelector('#device-0 [data-plot]');"
        "const trace = plot.data.find((one) => one.name === 'ONNX');"
        "plot.emit('plotly_click', { points: [{ customdata: trace.customdata[1] }] });"
    )
    found = page.find_elements("css selector", "#device-0 tr.flash")
    assert [row.get_attribute("data-variant") for row in found] == ["dscnn.onnx.weight_only_wi4_afp32"]


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    rows = [
        row(variant=HOSTILE, device=HOSTILE),
        row("b", variant="<a href='javascript:alert(1)'>b</a>", device=HOSTILE),
    ]
    text = render_html(rows, [advice(HOSTILE)], None, samples(rows))
    show(browser, text, tmp_path / "hostile.html")
    assert browser.execute_script("return document.documentElement.dataset.plots") == "drawn"
    assert browser.find_elements("css selector", "img") == []
    assert browser.find_elements("css selector", ".plot a") == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    labels = [label.text.strip() for label in browser.find_elements("css selector", "#sizes .ytick")]
    assert "<a href='javascript:alert(1)'>b</a> (tflite)" in labels


def test_an_injected_script_is_refused_by_the_policy(browser: Any, tmp_path: Path) -> None:
    text = render_html(many(), [advice()]).replace("</main>", "<script>document.title = 'owned'</script></main>")
    show(browser, text, tmp_path / "injected.html")
    assert "owned" not in browser.title
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
