"""A headless Chromium for tests, spoken to over a pipe: no driver and no packages needed."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


class Browser:
    """One Chromium with one page; it notes every request, console message and exception.

    Use it in a ``with`` statement. Skips the test where there is no Chromium.
    """

    def __init__(self, profile: Path, *, scripts: bool = True):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            pytest.skip("chromium is not installed: pages are not looked at")
        down, self._to = os.pipe()
        self._from, up = os.pipe()
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(  # Chromium reads from 3 and writes to 4
            ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up}', "chromium", *command],
            pass_fds=(down, up),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(down)
        os.close(up)
        self._count, self._rest, self._session = 0, b"", None
        self.events: list[dict] = []
        page = next(
            target
            for target in self.call("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        )
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)

    def call(self, method: str, **arguments) -> dict:
        """Run a command of the DevTools protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._count:
                assert "error" not in said, said["error"]
                return said["result"]

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, expression: str):
        """What a JavaScript expression comes to in the page."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def look(self, width: int, height: int = 1000, dark: bool = False) -> None:
        """Choose the size of the window, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, x: float, y: float) -> None:
        """A press and release of the mouse at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """A key that writes nothing, such as ArrowLeft."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        said = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(said["data"]))

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself first."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[dict]:
        """Exceptions, and all that stands in the console."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], 60)
            part = os.read(self._from, 1 << 20) if ready else b""
            assert part, "chromium has stopped answering"
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        said = json.loads(line)
        if "method" in said:
            self.events.append(said)
        return said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._to)  # the browser ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._from)
