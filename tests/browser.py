"""Debian's Chromium, driven by Selenium: nothing is downloaded, and what the page asks for and complains of is kept."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

MISSING = "no browser: apt install chromium chromium-driver (CONTRIBUTING.md, Tests)"
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser(webdriver.Chrome):
    """A browser that finds elements by CSS selector; ``shown`` are the folders whose pages it was given."""

    def __init__(self, **given: object):
        super().__init__(**given)
        self.shown: list[str] = []

    def one(self, selector: str) -> WebElement:
        return self.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The text content of elements, shown or not."""
        return self.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )

    def show(self, folder: Path, place: str = "") -> None:
        """Open a folder's page afresh, at a place in it."""
        self.shown.append(folder.as_uri())
        self.get("about:blank")
        self.get((folder / "index.html").as_uri() + place)

    def speaks(self, language: str) -> None:
        """Set the system's language."""
        agent = self.execute_script("return navigator.userAgent")
        self.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language})

    def prefers(self, scheme: str) -> None:
        """Set the system's colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def requests(self) -> list[str]:
        """The addresses asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url != "about:blank"]

    def complaints(self) -> list[str]:
        """What stands on the console since the last call."""
        return [entry["message"] for entry in self.get_log("browser")]


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser; skips the test where there is none."""
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
        "--lang=en-US",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # 它会在临时文件夹里留下套接字
        found = Browser(options=options, service=Service(driver, env=os.environ | {"TMPDIR": folder}))
        try:
            yield found
        finally:
            found.quit()
