"""Chromium without a window, for tests of pages: driven through a pipe, by its DevTools protocol.

Tests that need it are skipped where no Chromium is found in PATH.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds within which the browser answers, however busy the machine is."""
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}


def found() -> str | None:
    """Return the path of Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A Chromium, with any number of pages. `close` ends it."""

    def __init__(self, folder: Path) -> None:
        commands, ours_out = os.pipe()
        ours_in, answers = os.pipe()
        # Out of the way of 3 and 4, from which the browser reads commands and to which it writes.
        pipes = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 64) for one in (commands, answers)]
        options = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--mute-audio", "--hide-scrollbars", f"--user-data-dir={folder}",
        ]  # fmt: skip

        def give_pipes() -> None:
            os.dup2(pipes[0], 3)
            os.dup2(pipes[1], 4)

        self.process = subprocess.Popen(
            [found() or "chromium", *options, "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=give_pipes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one in (commands, answers, *pipes):
            os.close(one)
        self._out, self._in = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb", buffering=0)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._number = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        while part := self._in.read(1 << 16):
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]].put(message)
                elif page := self._pages.get(message.get("sessionId", "")):
                    page.hear(message["method"], message["params"])

    def call(self, method: str, session: str = "", **given: Any) -> dict[str, Any]:
        """Have the browser do something, and return its answer."""
        with self._lock:
            self._number += 1
            number = self._number
            answer = self._answers[number] = queue.Queue()
            command = {"id": number, "method": method, "params": given} | (
                {"sessionId": session} if session else {}
            )
            self._out.write(json.dumps(command).encode() + b"\0")
        found = answer.get(timeout=PATIENCE)
        del self._answers[number]
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        return found["result"]

    @contextmanager
    def page(self, address: str, width: int = 1280, height: int = 800, **media: str) -> Iterator[Page]:
        """Open a page within the block. media: features such as prefers_color_scheme="dark"."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            page.size(width, height)
            page.media(**({"prefers_color_scheme": "light"} | media))
            page.go(address)
            yield page
        finally:
            del self._pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._out.close()


class Page:
    """One page. complaints: errors of its scripts, of its console and of what it may not do. asked: what it has asked
    for, by address."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def hear(self, event: str, given: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(given["exceptionDetails"]))
        elif event == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.complaints.append(given["entry"]["text"] + " " + given["entry"].get("url", ""))
        elif event == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(given["args"]))
        elif event == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **given)

    def go(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def media(self, **features: str) -> None:
        """Set features such as prefers_color_scheme="dark"."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=given)

    def value(self, script: str) -> Any:
        """Return what an expression gives, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if value := self.value(script):
                    return value
            except RuntimeError:  # as while the page changes
                pass
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.02)

    def texts(self, selector: str) -> list[str]:
        return self.value(f"[...document.querySelectorAll({selector!r})].map((one) => one.innerText.trim())")

    def click(self, selector: str) -> None:
        """Press the mouse on the middle of an element, as a person does."""
        place = f"""(() => {{
            const one = document.querySelector({selector!r});
            one.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = one.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.value(place)
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code, text = KEYS.get(key, (0, key))
        name = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **name)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def drop(self, content: bytes, name: str, kind: str) -> None:
        """Drop a file on the page."""
        data = base64.b64encode(content).decode()
        self.value(f"""(() => {{
            const bytes = Uint8Array.from(atob('{data}'), (one) => one.charCodeAt(0));
            const held = new DataTransfer();
            held.items.add(new File([bytes], {name!r}, {{type: {kind!r}}}));
            const given = {{dataTransfer: held, bubbles: true, cancelable: true}};
            for (const type of ['dragenter', 'dragover', 'drop']) {{
                document.body.dispatchEvent(new DragEvent(type, given));
            }}
        }})()""")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
