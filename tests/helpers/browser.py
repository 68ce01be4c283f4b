"""A headless Chromium for tests of HTML pages; conftest's fixture `open_page` uses it."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,900",
)  # fmt: skip
OF_THE_DISK = ("file:", "data:", "blob:", "about:")


@contextlib.contextmanager
def started_browser() -> Iterator:
    """Selenium's driver of a new browser, which no name of a host leads anywhere for.

    Skips the test where there is no browser.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromedriver" if browser else "Chromium or Chrome"
        pytest.skip(f"needs {missing} on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        started = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            started.get("about:blank")
            _recorded(started)  # the browser's own first page
            yield started
        finally:
            started.quit()


def assert_quiet(driver) -> None:
    """Since this was last called no page had an error, and none asked for anything but files."""
    console, asked = _recorded(driver)
    assert not console, console
    assert asked, "the browser's record of requests is empty"
    elsewhere = [url for url in asked if not url.startswith(OF_THE_DISK)]
    assert not elsewhere, elsewhere


def _recorded(driver) -> tuple[list[str], list[str]]:
    """The console's lines and the addresses that were asked for, since this was last called."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [entry["message"] for entry in driver.get_log("browser")], asked
