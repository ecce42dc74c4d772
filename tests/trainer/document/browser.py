"""Chromium without a window, driven by its DevTools protocol over two pipes."""

import json
import os
import select
import shutil
import subprocess
import time
from importlib import resources
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0
PRINTED_WIDTH = 717  # CSS pixels between Chromium's margins of an A4 sheet
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which root, as in a container, cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def lacking() -> str:
    """Why no page can be opened; empty if one can."""
    if chromium() is None or shutil.which("bash") is None:
        return "Chromium is not installed"
    try:
        resources.files("axe_core_python")
    except ModuleNotFoundError:
        return "axe-core-python is not installed"
    return ""


def chromium() -> str | None:
    """The program."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A started Chromium; `close` ends it. folder: for its profile."""

    def __init__(self, folder: Path) -> None:
        command = f'exec "$0" "$@" 3<&{(theirs := os.pipe())[0]} 4>&{(ours := os.pipe())[1]}'
        program = str(chromium())
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *_FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(theirs[0], ours[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(theirs[0])
        os.close(ours[1])
        self._to, self._from = theirs[1], ours[0]
        self._received = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End it."""
        self.call("Browser.close")
        self._process.wait(PATIENCE_S)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol; what happens meanwhile is added to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {} if session is None else {"sessionId": session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, method: str) -> None:
        """Wait until an event of this name has come."""
        while all(event.get("method") != method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._from, 1 << 16) if ready else b""
            assert chunk, f"Chromium has said nothing for {PATIENCE_S:.0f} s" if not ready else "Chromium has ended"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class OpenPage:
    """A page from a file, in a tab of its own. events: what has happened since it began to load."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        browser.events.clear()
        self._call("Page.navigate", url=path.absolute().as_uri())
        browser.wait_for("Page.loadEventFired")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, printed: bool = False) -> None:
        """Show it so many CSS pixels wide, as on a screen or on paper."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", media="print" if printed else "")

    def value(self, script: str) -> Any:
        """The value of an expression in the page, or of the promise that it is."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Where it has asked for anything, but in itself."""
        sent = [event["params"] for event in self._browser.events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent if not each["request"]["url"].startswith("data:")]

    def complaints(self) -> list[str]:
        """What it has written to the console, and scripts that failed."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [json.dumps(event["params"]) for event in self._browser.events if event["method"] in kinds]

    def against_the_rules(self) -> list[str]:
        """Where axe-core finds it to be hard to read or use for some: the rule, and the elements."""
        axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.value(f"{axe}; undefined")
        found = self.value("axe.run().then(found => found.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
        return [f"{rule}: {'; '.join(nodes[:3])}" for rule, nodes in found]
