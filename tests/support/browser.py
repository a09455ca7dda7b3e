"""A real Chromium, and a tab that tests read.

Selenium drives the browser: Debian builds Chromium and its driver from one source, so they always
match, and no other download is necessary.
"""

import os
from contextlib import contextmanager
from pathlib import Path

from . import optional
from .waits import DEADLINE

webdriver = optional.module("selenium.webdriver")
WebDriverWait = optional.module("selenium.webdriver.support.ui").WebDriverWait
TimeoutException = optional.module("selenium.common.exceptions").TimeoutException
CHROMIUM = optional.program("chromium", debian="chromium")
CHROMEDRIVER = optional.program("chromedriver", debian="chromium-driver")

QUIET = [
    "--headless=new",
    "--no-sandbox",  # Chromium refuses to run as root with a sandbox
    "--disable-dev-shm-usage",  # containers have little shared memory
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # no requests to Google at each start
    "--disable-component-update",
    "--disable-sync",
    # A tab in the background must be as fast as the tab in front.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--window-size=1000,620",
]
PAGE_TIME = 60
"""Seconds until a page must be loaded: 10 MB of JavaScript, on two cores with other load."""


@contextmanager
def chromium(folder):
    """Start a browser that keeps its profile in ``folder``; yield its driver."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in [*QUIET, f"--user-data-dir={folder}"]:
        options.add_argument(word)
    service = webdriver.ChromeService(CHROMEDRIVER, log_output=str(folder / "driver.log"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(PAGE_TIME)
        yield driver
    finally:
        driver.quit()


class Page:
    """The page in the front tab of the browser."""

    SHOWN = "document.body.innerText"
    """An expression; a failure shows its value."""

    def __init__(self, driver):
        self.driver = driver

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script, what, timeout=DEADLINE):
        """Return the value of an expression as soon as it is true; ``what`` describes it."""
        waiting = WebDriverWait(self.driver, timeout, poll_frequency=0.05)
        try:
            return waiting.until(lambda _: self.js(f"return {script}"))
        except TimeoutException:
            shown = self.js(f"return {self.SHOWN}")
            raise AssertionError(f"not within {timeout} s: {what}; shown: {shown}") from None

    def end(self, name):
        """Save a screenshot if CI requests one; close all tabs but the first."""
        folder = os.environ.get("ECHOKERNEL_ARTEFACTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))
        for extra in self.driver.window_handles[1:]:
            self.driver.switch_to.window(extra)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
