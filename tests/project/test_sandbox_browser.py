"""
The sandbox as a newcomer meets it, in Chromium: tox -e browser. With
--screenshots DIR the pages are kept as pictures, as the README shows them.
"""

import base64
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait as Wait

from ..support.repository import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
]
SECONDS = 300  # for all acts with 1,000 cities

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="No chromium and chromedriver on PATH. On Debian: "
        "apt-get install chromium chromium-driver",
    ),
]


@contextmanager
def server(directory, **environment):
    """Run the sandbox as users do, and yield its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", ROOT / "sandbox" / "manage.py"),
            *("runserver", "127.0.0.1:0", "--noreload"),
        ],
        cwd=directory,
        env={
            name: value
            for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "CACHE_URL")
        }
        | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            for line in process.stdout:
                if found := re.search(r"server at (http://\S+/)", line):
                    yield found[1]
                    break
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address(tmp_path_factory, request):
    # The pictures may be of other services than the tests.
    names = ("DATABASE_URL", "CACHE_URL") if request.config.option.screenshots else ()
    given = {name: os.environ[name] for name in names if name in os.environ}
    with server(tmp_path_factory.mktemp("server"), **given) as address:
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With its path, Selenium has nothing to look for, nor to download.
    service = webdriver.ChromeService(executable_path=DRIVER)
    with webdriver.Chrome(options=options, service=service) as browser:
        yield browser


class Page:
    def __init__(self, browser, address, directory):
        self.browser, self.address, self.directory = browser, address, directory
        self.look()

    def look(self, width=1000, height=800, scheme="light"):
        self.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def open(self, path=""):
        self.browser.get(self.address + path)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector="main"):
        return self.find(selector).text

    def script(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, text, selector="main"):
        """Wait for the text, while the page may replace its elements."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        Wait(self.browser, SECONDS, poll_frequency=0.1).until(
            lambda browser: text in browser.execute_script(script, selector),
            f"{text!r} is not in {selector}",
        )

    def picture(self, name):
        if self.directory:
            taken = self.browser.execute_cdp_cmd("Page.captureScreenshot", {})
            Path(self.directory, f"{name}.png").write_bytes(
                base64.b64decode(taken["data"])
            )


@pytest.fixture
def page(chromium, address, request):
    chromium.get_log("browser")  # of the test before
    yield Page(chromium, address, request.config.option.screenshots)
    log = chromium.get_log("browser")
    stop(chromium, address)
    assert log == []


def stop(browser, address):
    """Stop what a test has left running."""
    browser.get(address)
    for button in browser.find_elements(By.CSS_SELECTOR, "#run form button"):
        button.click()
    Wait(browser, SECONDS).until(
        lambda browser: browser.find_elements(By.CSS_SELECTOR, "#setup form")
    )


# Lists each visible text with too little contrast.
FAINT = """
const luminance = ([red, green, blue]) => {
  const [r, g, b] = [red, green, blue].map((value) => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parse = (color) => color.match(/[\\d.]+/g).map(Number);
const background = (element) => {
  for (; element; element = element.parentElement) {
    const color = parse(getComputedStyle(element).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim();
  const element = walker.currentNode.parentElement;
  const isSeen = text && element.checkVisibility();
  if (!isSeen || element.matches("script, title, desc, option, progress")) continue;
  const style = getComputedStyle(element);
  const color = element.matches("svg text") ? style.fill : style.color;
  const [one, two] = [parse(color), background(element)].map(luminance);
  const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  seen += 1;
  if (contrast < 4.5) faint.push(`${text}: ${contrast.toFixed(2)}`);
}
return [seen, faint];
"""
# Controls that nothing names, and ids that are there twice.
NAMELESS = """
const controls = [
  ...document.querySelectorAll("input:not([type=hidden]), select, button, progress"),
];
const names = (control) => [control.ariaLabel, control.innerText].concat(
  [...control.labels ?? []].map((label) => label.innerText));
const nameless = controls.filter((control) =>
  !names(control).some((text) => text?.trim()));
const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
return [controls.length, [
  ...nameless.map((control) => control.outerHTML),
  ...ids.filter((id, index) => ids.indexOf(id) !== index),
]];
"""
WIDE = "return document.documentElement.scrollWidth - innerWidth"


def check_looks(page):
    """Everything can be read, has a name, and fits a phone."""
    for scheme in ("light", "dark"):
        page.look(scheme=scheme)
        seen, faint = page.script(FAINT)
        assert seen > 10
        assert faint == [], scheme
    controls, nameless = page.script(NAMELESS)
    assert controls
    assert nameless == []
    for width in (360, 390):
        page.look(width=width)
        assert page.script(WIDE) <= 0
    page.look()


def start_run(page, cities, choices=()):
    """Start an import without a mouse."""
    if not choices:
        page.open()
    for choice in choices:
        choice.send_keys(Keys.SPACE)
    number = page.find("#cities")
    number.clear()
    number.send_keys(cities)
    number.send_keys(Keys.ENTER)


def focused(page):
    return page.script(
        "const element = document.activeElement, style = getComputedStyle(element);"
        "return [element.innerText || element.name,"
        " style.outlineStyle, style.outlineWidth]"
    )


def id_with_focus(page):
    return page.script("return document.activeElement.id")


def test_import_is_watched_and_rows_are_looked_up(page):
    page.open()
    assert page.text("h1") == "The same cities, row by row and in batches"
    check_looks(page)
    # Services of the environment, for the pictures.
    start_run(page, "1000", page.all("[value=given]"))

    page.wait("rows/s")
    # Not the body, although the button that was pressed is gone.
    assert id_with_focus(page) == "run-title"
    assert page.find("#run button").text == "Stop"
    assert page.all("#setup form") == []
    page.wait("Act 1: the first import: 50 % are done.", "#status")
    assert id_with_focus(page) == "run-title"
    (shown,) = page.all("#chart svg[role=img]")
    assert "getorcreateplus: " in shown.find_element(By.TAG_NAME, "desc").get_attribute(
        "textContent"
    )
    assert 0 < int(page.find("#bar-plain").get_attribute("value")) < 1958
    check_looks(page)

    for act in ("same", "changed", "lookups"):
        page.wait("plain Django", f"#act-{act}")
        assert page.text(f"#{act}-0-plain")
        check_looks(page)
        page.find("#stop").send_keys(Keys.SHIFT)  # focuses it
        assert id_with_focus(page) == "stop"

    page.wait("The verdict")
    assert id_with_focus(page) == "run-title"
    assert "259 of 6,719 calls were answered by the cache" in page.text(".verdict")
    assert "All imports are equal, row by row" in page.text("#act-first")
    assert "100 of 1,000 cities have changed" in page.text("#act-changed")
    assert "10,000 lookups by four processes during " in page.text(".verdict")
    assert page.text("#act-same").startswith("Act 2: the same feed again, every row")
    assert page.text(".verdict thead").split("\n") == [
        "Times as fast as plain Django in batches row by row"
    ]
    assert "x as many rows per second as plain Django" in page.find(
        "#status"
    ).get_attribute("textContent")
    for contender in ("plain", "plus", "bulk"):
        assert page.find(f"#bar-{contender}").get_attribute("value") == "1958"
        assert len(page.all(f"#chart polyline.{contender}")) == 1
    page.find("#chart-data summary").click()
    cells = [cell.text for cell in page.all("#chart-data tbody tr:first-child > *")]
    assert len(cells) == 4
    assert all(re.fullmatch(r"[\d.,]+|-", cell) for cell in cells)
    check_looks(page)
    page.find("#chart-data summary").click()
    page.look(width=900, height=1190)
    page.script("document.activeElement.blur(); scrollTo(0, 0)")
    page.script("document.querySelector('#run').scrollIntoView()")
    page.script("scrollBy(0, -12)")
    page.picture("import")
    page.look(width=390, height=820, scheme="dark")
    page.script("document.querySelector('.verdict').scrollIntoView()")
    page.script("scrollBy(0, -12)")
    page.picture("phone")
    page.look()

    page.find(".verdict a").click()
    page.find("#name").send_keys("Paris", Keys.ENTER)
    page.wait("warm: the row is in the cache")
    assert re.fullmatch(r"[\d,]+ µs", page.text("#warm"))
    assert re.fullmatch(r"[\d,]+ µs", page.text("#cold"))
    assert page.text("#queries") == "0, 1"
    assert page.text("#commands").startswith("1, ")
    check_looks(page)
    page.look(width=900, height=760)
    page.script("document.querySelector('#cost-title').scrollIntoView()")
    page.script("scrollBy(0, -40)")
    page.picture("lookup")
    page.look()
    page.open("lookup?model=city&name=Pari")
    page.wait("No such row")
    page.find("main section ul a").click()
    page.wait("GeoNames number")
    check_looks(page)


def test_import_is_stopped_by_keyboard(page):
    start_run(page, "234908")
    page.wait("rows/s")
    page.find("#stop").send_keys(Keys.ENTER)
    page.wait("Stopped. Nothing is left of this import.")
    assert id_with_focus(page) == "run-title"
    page.wait("Import again")
    assert page.find("#cities").get_attribute("value") == "234908"


def test_mistake_is_explained_where_it_was_made(page):
    start_run(page, "5")
    page.wait("Enter a whole number of cities from 1,000 to 234,908, not '5'.")
    assert "alert" in page.script("return document.activeElement.className")
    assert page.find("[aria-invalid]").get_attribute("id") == "cities"
    check_looks(page)
    page.find(".alert a").click()
    assert id_with_focus(page) == "cities"
    # What the browser says of a page whose status is 400.
    assert all("400" in entry["message"] for entry in page.browser.get_log("browser"))


def test_keyboard_leads_through_the_page_and_shows_where_it_is(page):
    page.open()
    names = []
    for _ in range(30):
        page.script("return document.activeElement").send_keys(Keys.TAB)
        name, style, width = focused(page)
        assert style == "solid", name
        assert int(float(width.removesuffix("px"))) >= 2, name
        names.append(name)
        if name == "Start the import":
            break
    assert names[0] == "Skip to the content"
    assert names[-1] == "Start the import"
    for name in (
        "Import",
        "Look up",
        "cities",
        "5,000",
        "in_bulk",
        "database",
        "cache",
    ):
        assert name in names


def test_number_of_cities_is_a_click(page):
    page.open()
    for button in page.all("#presets button"):
        button.click()
        value = page.find("#cities").get_attribute("value")
        assert button.text == f"{int(value):,}"


def test_nothing_moves_for_those_who_ask_for_it(page):
    page.open()
    moving = (
        "return getComputedStyle(document.querySelector('button')).transitionDuration"
    )
    assert page.script(moving) == "0.15s"
    page.browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]},
    )
    assert page.script(moving) == "0s"


def test_server_that_is_gone_is_reported(chromium, tmp_path):
    with server(tmp_path) as address:
        page = Page(chromium, address, None)
        start_run(page, "234908")
        page.wait("rows/s")
    page.wait("The server does not answer. Is it still running?")
    chromium.get_log("browser")
