"""Watches this process for network connections and installations."""

from __future__ import annotations

import sys
from typing import Any

FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "os.system", "os.exec", "os.posix_spawn")


def watch() -> list[str]:
    """Watch this process until it ends; return a list to which every event is appended."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN or (event == "subprocess.Popen" and "pip" in str(arguments)):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    return seen
