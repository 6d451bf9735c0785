"""Drives a headless Chromium over its DevTools Protocol, through two pipes: no driver, no package, no port.

Messages are JSON, each ended by a zero byte; the browser reads them on descriptor 3 and replies on 4, and ends when
the pipes close. Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Point = tuple[float, float]

TIMEOUT_SECONDS = 60.0
_FLAGS = [
    "--headless",
    "--no-sandbox",  # needed where the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
_PLUMBING = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null'
_KEYS = {" ": ("Space", 32), "Delete": ("Delete", 46), "Tab": ("Tab", 9), "Enter": ("Enter", 13)} | {
    f"Arrow{way}": (f"Arrow{way}", code) for way, code in {"Left": 37, "Up": 38, "Right": 39, "Down": 40}.items()
}


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Chromium:
    """A running browser with one tab. `events` keeps whatever it reported, in order."""

    def __init__(self, program: str, profile: Path) -> None:
        command = ["/bin/sh", "-c", _PLUMBING, program, *_FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._received = bytearray()
        self._number = 0
        self._session: str | None = None
        self.events: list[Event] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command, and its result."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (reply := self._receive(deadline)).get("id") != number:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def _receive(self, deadline: float) -> Event:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\0" not in self._received:
            ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
            data = os.read(descriptor, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("Chromium ended" if ready else "Chromium does not reply")
            self._received += data
        message, _, rest = self._received.partition(b"\0")
        self._received = rest
        event: Event = json.loads(message)
        return event

    def wait_for_event(self, method: str) -> Event:
        """The first event of that name since `events` was cleared."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := self.events_of(method)):
            self.events.append(self._receive(deadline))
        return found[0]

    def events_of(self, method: str) -> list[Event]:
        """The parameters of all events of that name since `events` was cleared."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def open(self, page: Path | str) -> None:
        """Load a file or an address, and wait until it has run."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        self.wait_for_event("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression as soon as it is truthy."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"in vain: {script}")
            time.sleep(0.02)
        return value

    def window(self, width: int, height: int, *, dark: bool = False, touch: bool = False, scale: float = 1) -> None:
        """Size in CSS pixels, colour scheme, touch screen or mouse, device pixels for each of CSS."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.media({"prefers-color-scheme": "dark" if dark else "light"})

    def media(self, features: dict[str, str]) -> None:
        """Set media features."""
        listed = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window, scrolled into view."""
        left, top, width, height = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        return left, top, width, height

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        left, top, width, height = self.box(selector)
        self.stroke([(left + width / 2, top + height / 2)])

    def stroke(self, points: Sequence[Point], *, kind: str = "mouse") -> None:
        """Press at the first point, move through all, release: with the mouse or a pen."""
        common = {"button": "left", "clickCount": 1, "pointerType": kind}
        (x, y), *rest = points
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, buttons=1, **common)
        for x, y in rest:
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, buttons=1, **common)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, buttons=0, **common)

    def touch(self, points: Sequence[Point]) -> None:
        """The same with a finger."""
        for i, (x, y) in enumerate(points):
            self.call(
                "Input.dispatchTouchEvent", type="touchMove" if i else "touchStart", touchPoints=[{"x": x, "y": y}]
            )
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str, *, control: bool = False, commands: Sequence[str] = ()) -> None:
        """Press and release a key; `commands` are the browser's own for it, such as `paste`."""
        self.key_down(key, control=control, commands=commands)
        self.key_up(key)

    def key_down(self, key: str, *, control: bool = False, commands: Sequence[str] = ()) -> None:
        """Press a key."""
        event = _key(key) | {"modifiers": 2 if control else 0, "commands": list(commands)}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **event)

    def key_up(self, key: str) -> None:
        """Release a key."""
        self.call("Input.dispatchKeyEvent", type="keyUp", **_key(key))


def _key(key: str) -> dict[str, Any]:
    code, number = _KEYS.get(key, (f"Key{key.upper()}", ord(key[0].upper())))
    return {"key": key, "code": code, "windowsVirtualKeyCode": number}


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser with a fresh profile; there must be one."""
    program = find_chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        browser = Chromium(program, Path(profile))
        try:
            yield browser
        finally:
            browser.close()
