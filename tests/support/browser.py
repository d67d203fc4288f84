"""A real Chromium, without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from local.process import running
from tests.support.world import eventually


class Tab:
    """One page: its requests, and its errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self.requests: list[str] = []
        self.problems: list[str] = []

    async def read(self) -> None:
        async for message in self._socket:
            said = orjson.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            elif said["method"] == "Runtime.exceptionThrown" or (
                said["method"] in {"Log.entryAdded", "Runtime.consoleAPICalled"} and "error" in str(said["params"])
            ):
                self.problems.append(str(said["params"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(orjson.dumps({"id": self._number, "method": method, "params": params}).decode())
        async with asyncio.timeout(20):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, script: str, within_s: float = 20) -> None:
        async def holds() -> bool:
            return bool(await self.run(script))

        await eventually(holds, within_s=within_s, what=script)

    async def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said)

    async def picture(self, path: Path) -> None:
        said = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(said["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """Open a new page. Skips the test if there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile = Path(folder) / "profile"
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank",
        ]  # fmt: skip
        async with running("chromium", command, Path(folder) / "log") as child, aiohttp.ClientSession() as http:
            listening = profile / "DevToolsActivePort"

            async def there() -> bool:
                return listening.exists() and listening.read_text().count("\n") > 0

            await child.until(there)
            port = listening.read_text().splitlines()[0]
            async with http.get(f"http://127.0.0.1:{port}/json") as response:
                (found,) = [each for each in await response.json() if each["type"] == "page"]
            async with http.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                reading = asyncio.create_task(tab.read())
                for domain in ("Page", "Network", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                yield tab
                await socket.close()
                await reading
