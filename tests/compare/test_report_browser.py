"""report.html in a browser: no requests, no errors, narrow screens, keyboard, contrast. A missing browser is a failure."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.report_samples import SAMPLES
from parity import report

pytestmark = pytest.mark.browser

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOGS = {"browser": "ALL", "performance": "ALL"}

# Every text's colour on the nearest background that is opaque, as WCAG 2 computes it.
CONTRASTS = """
const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const opaque = c => c.length < 4 || c[3] === 1;
const own = e => numbers(getComputedStyle(e).backgroundColor);
const back = e => { for (; e; e = e.parentElement) if (opaque(own(e))) return own(e); return [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll(arguments[0])) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
  const style = getComputedStyle(e), text = numbers(e instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [light(text), light(back(e))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), e.textContent.slice(0, 60)]);
}
return found;
"""
FOCUSED = """
const e = document.activeElement;
if (!e || e === document.body) return null;
const style = getComputedStyle(e);
return [[...document.querySelectorAll('*')].indexOf(e), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
"""
REACHABLE = """
const all = [...document.querySelectorAll('*')];
return all.filter(e => e.matches('a[href], summary, [tabindex="0"]') && e.checkVisibility()).map(e => all.indexOf(e));
"""

# The regions with a place to open at: whether it is in view and not below the table's head, and whether they scroll freely.
OPENED = """
return [...document.querySelectorAll('.scroll:has(.opens)')].map(e => {
  const head = e.querySelector('thead'), box = e.getBoundingClientRect(), place = e.querySelector('.opens').getBoundingClientRect();
  const top = head ? head.getBoundingClientRect().bottom : box.top;
  const inside = place.top >= top - 1 && place.bottom <= box.bottom + 1 && place.left >= box.left - 1 && place.left <= box.right;
  const moved = e.scrollTop > 0 || e.scrollLeft > 0, before = [e.scrollTop, e.scrollLeft];
  e.scrollTo(0, 0);
  const free = e.scrollTop === 0 && e.scrollLeft === 0;
  e.scrollTo(...before.reverse());
  return [e.closest('.heat') ? 'heat' : e.matches('.trees') ? 'trees' : 'chart', inside, moved, free];
});
"""
# Of each chart, the titles of both axes, and whether they are in view wherever the chart is scrolled to.
TITLES = """
return [...document.querySelectorAll('.heat, .chart')].map(e => {
  const region = e.querySelector('.scroll'), titles = e.querySelectorAll('.axis-title, thead [rowspan]');
  region.scrollTo(1e6, 1e6);
  return [...titles].map(t => {
    const box = t.getBoundingClientRect(), edge = e.getBoundingClientRect();
    const text = document.createRange(); text.selectNodeContents(t);
    return [text.getBoundingClientRect().right > edge.left && box.top >= edge.top - 1 && box.bottom <= edge.bottom + 1, t.textContent];
  });
});
"""
# Texts of the heat map that are wider than their cell.
CUT = """
return [...document.querySelectorAll('.heat th, .heat td, .trees td')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with its own profile."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pytest.fail('selenium is not installed here: pip install -e ".[browser]"')
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("chromium or chromedriver is missing: apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", LOGS)
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.get("about:blank")  # leave the browser's start page, which loads much
    yield made
    made.quit()


@pytest.fixture(params=["equal", "different", "chaotic", "edges", "hostile", "several", "initialised"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of each sample's page."""
    report.write(tmp_path, SAMPLES[request.param]())
    return (tmp_path / "report.html").as_uri()


def open_page(browser: Any, page: str, width: int, scheme: str = "light") -> None:
    for log in LOGS:
        browser.get_log(log)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)


def unfold(browser: Any) -> None:
    browser.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")


def requests(browser: Any, page: str) -> list[str]:
    """What was asked for since the page was opened.

    An inline picture asks nobody; what the browser's own start page (chrome:) still asks for is not the page's doing.
    """
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    own = [one["request"]["url"] for one in asked if not one["documentURL"].startswith(("chrome", "about:"))]
    assert page in own
    return [url for url in own[own.index(page) :] if not url.startswith("data:")]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_asks_for_nothing_but_itself_and_logs_no_error(browser: Any, page: str, width: int, scheme: str) -> None:
    open_page(browser, page, width, scheme)
    unfold(browser)
    assert requests(browser, page) == [page]
    assert browser.get_log("browser") == []


def test_a_request_and_an_error_would_be_seen(browser: Any, tmp_path: Path) -> None:
    report.write(tmp_path, SAMPLES["equal"]())
    spoilt = tmp_path / "report.html"
    html = (
        spoilt.read_text("utf-8")
        .replace("img-src data:", "img-src file:")
        .replace("</main>", '<img src="other.png"></main>')
    )
    spoilt.write_text(html, "utf-8")
    open_page(browser, spoilt.as_uri(), 1280)
    assert requests(browser, spoilt.as_uri()) == [spoilt.as_uri(), (tmp_path / "other.png").as_uri()]
    assert browser.get_log("browser") != []


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_page_does_not_scroll_sideways(browser: Any, page: str, width: int) -> None:
    open_page(browser, page, width)
    for _ in range(2):
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        unfold(browser)


def test_wide_content_scrolls_in_its_own_region_on_a_phone(browser: Any, page: str) -> None:
    open_page(browser, page, 360)
    reached = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(e => { e.scrollLeft = 1e6; return e.scrollLeft; })"
    )
    assert reached
    assert max(reached) > 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("name", ["different", "edges", "hostile"])
def test_regions_open_at_the_first_divergence_and_scroll_freely(
    browser: Any, tmp_path: Path, width: int, fallback: bool, name: str
) -> None:
    report.write(tmp_path, SAMPLES[name]())
    page = tmp_path / "report.html"
    if fallback:  # a browser without this property
        page.write_text(page.read_text("utf-8").replace("scroll-initial-target", "no-such-property"), "utf-8")
    open_page(browser, page.as_uri(), width)
    time.sleep(0.3)  # the fallback lasts 0.1 s
    assert browser.execute_script("return scrollY") == 0
    regions = browser.execute_script(OPENED)
    assert {"heat", "trees"} <= {name for name, *_ in regions}
    for region, inside, moved, _ in regions:
        assert inside, region
        assert moved or region == "chart" or name == "edges", region
    assert all(free for *_, free in regions)


def test_a_heat_map_with_long_names_fits_on_a_phone(browser: Any, tmp_path: Path) -> None:
    result = SAMPLES["different"]()
    for row in result["layers"]:
        row["layer"] = f"transformer_encoder.layers.11.{row['layer']}_of_the_attention"
        row["candidate_layer"] = f"encoder.blocks.11.{row['layer']}"
    result["first_divergence"]["layer"] = result["layers"][20]["layer"]
    report.write(tmp_path, result)
    open_page(browser, (tmp_path / "report.html").as_uri(), 390)
    size = "const e = document.querySelector('.heat .scroll'); return [e.scrollWidth, e.clientWidth]"
    wide, room = browser.execute_script(size)
    assert wide <= room
    assert browser.execute_script(CUT) == []


def test_an_equal_report_opens_at_the_first_layer(browser: Any, tmp_path: Path) -> None:
    report.write(tmp_path, SAMPLES["equal"]())
    open_page(browser, (tmp_path / "report.html").as_uri(), 1280)
    assert browser.execute_script("return document.querySelector('.heat .scroll').scrollTop") == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_every_chart_has_axis_titles_that_stay_in_view(browser: Any, page: str, width: int) -> None:
    open_page(browser, page, width)
    found = browser.execute_script(TITLES)
    assert found
    for titles in found:
        assert len(titles) == 2
        assert all(seen for seen, _ in titles), titles


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_of_the_heat_map_is_cut(browser: Any, page: str, width: int) -> None:
    open_page(browser, page, width)
    assert browser.execute_script(CUT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", ["h1, h1 *, .badge", "body *"])
def test_text_stands_out_from_its_background(browser: Any, page: str, scheme: str, selector: str) -> None:
    open_page(browser, page, 1280, scheme)
    unfold(browser)
    contrasts = browser.execute_script(CONTRASTS, selector)
    assert len(contrasts) >= 3
    assert [found for found in contrasts if found[0] < 4.5] == []


def test_the_two_schemes_are_not_the_same(browser: Any, page: str) -> None:
    backgrounds = set()
    for scheme in ("light", "dark"):
        open_page(browser, page, 1280, scheme)
        backgrounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_the_keyboard_reaches_everything_that_folds_or_scrolls_with_a_visible_focus(browser: Any, page: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page, 360)
    wanted, found = browser.execute_script(REACHABLE), []
    for _ in range(len(wanted) + 1):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.execute_script(FOCUSED)
        if focused is None or focused[0] in [index for index, _ in found]:
            break
        found.append(focused)
    assert [index for index, _ in found] == wanted
    assert all(visible for _, visible in found)


def test_the_first_tab_skips_to_the_verdict(browser: Any, page: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page, 360)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script("return document.activeElement.className") == "skip"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return document.activeElement.id") == "main"
