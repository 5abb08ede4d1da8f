"""Watches this process for connections to a network and for installations."""

from __future__ import annotations

import sys
from typing import Any

FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "os.system", "os.exec", "os.posix_spawn")


def watch() -> list[str]:
    """Begins to watch, until the process ends; returns a list that grows by what it sees."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN or (event == "subprocess.Popen" and "pip" in str(arguments)):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    return seen
