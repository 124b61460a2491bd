"""The page in a browser: every plot drawn, nothing on the console, no request for anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from limbeck.workflows.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH"),
]


@dataclass(frozen=True)
class Opened:
    """What a page became: its elements, its console, and what it asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]


def open_page(page: Path, folder: Path) -> Opened:
    """Open a page without a screen and without names that resolve."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-default-apps", "--disable-extensions", f"--user-data-dir={folder / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}", "--enable-logging=stderr", "--v=0",
            "--window-size=1280,900", "--virtual-time-budget=30000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(done.stdout, console, _requests(log))


def _requests(log: Path) -> list[str]:
    """URLs that pages asked for; the browser's own business has no initiator."""
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    try:
        events = json.loads(text)["events"]
    except ValueError:  # cut off where the browser ended
        events = json.loads(text + "]}")["events"]
    found = []
    for event in events:
        asked = event.get("params", {})
        url = str(asked.get("url", ""))
        if url.startswith(("http", "ws")) and asked.get("initiator", "not an origin") != "not an origin":
            found.append(url)
    return found


@pytest.fixture(scope="module")
def opened(complete_run, tmp_path_factory) -> tuple[Opened, dict]:
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(complete_run, folder / "report.html").page
    figures = re.search(r'id="figures">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert figures
    return open_page(page, folder), json.loads(figures[1])


def test_every_plot_is_drawn(opened):
    page, figures = opened
    assert f'data-plots="{len(figures["plots"])}"' in page.dom
    for name in figures["plots"]:
        place = page.dom.index(f'id="{name}"')
        end = page.dom.index("</figure>", place)
        drawing = page.dom[place:end]
        assert 'class="main-svg"' in drawing, name
        assert re.search(r'class="(trace|points|point|bars|scatter)', drawing), name
        assert "NaN" not in drawing, name
    assert page.dom.count("<canvas") >= len(figures["views"])


def test_the_console_is_silent_and_nothing_is_asked_for(opened):
    page, _ = opened
    assert page.console == []
    assert page.requests == []


def test_an_error_and_a_request_would_be_seen(tmp_path):
    planted = tmp_path / "planted.html"
    planted.write_text(
        "<img src='http://limbeck.invalid/x.png'><script>console.error('boo'); nothing()</script>"
    )
    page = open_page(planted, tmp_path)
    assert any("boo" in line for line in page.console)
    assert any("nothing is not defined" in line for line in page.console)
    assert page.requests == ["http://limbeck.invalid/x.png"]
