"""A real Chromium, and how the tests look at a page in it.

Selenium, because Debian builds the browser and its driver from one source: they always fit, and
nothing else is downloaded.
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
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-dev-shm-usage",  # containers have little shared memory
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # nor may it look for Google at each start
    "--disable-component-update",
    "--disable-sync",
    # A tab in the background is as fast as the one in front: both are somebody's.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--window-size=1000,620",
]
PAGE_TIME = 60
"""Seconds until a page must be there: 10 MB of JavaScript, on two cores that others use as well."""


@contextmanager
def chromium(folder):
    """Start a browser that keeps its profile in ``folder``; give its driver."""
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
    """What is in the browser's front tab."""

    SEEN = "document.body.innerText"
    """The expression that a failure shows."""

    def __init__(self, driver):
        self.driver = driver

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script, what, timeout=DEADLINE):
        """Return what the expression gives as soon as it is true."""
        waiting = WebDriverWait(self.driver, timeout, poll_frequency=0.05)
        try:
            return waiting.until(lambda _: self.js(f"return {script}"))
        except TimeoutException:
            seen = self.js(f"return {self.SEEN}")
            raise AssertionError(f"not within {timeout} s: {what}; seen: {seen}") from None

    def end(self, name):
        """Keep a picture if CI wants one; close all tabs but the first."""
        folder = os.environ.get("ECHOKERNEL_ARTEFACTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))
        for extra in self.driver.window_handles[1:]:
            self.driver.switch_to.window(extra)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
