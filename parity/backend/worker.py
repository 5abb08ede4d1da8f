"""One process per framework.

Loading both frameworks into one process crashes with some versions and pins their dependencies to each other.
"""

from __future__ import annotations

from parity.backend.remote import RemoteService
from parity.backend.trainer_service import TrainerService


class Worker(RemoteService, TrainerService, service=TrainerService):
    """A `TrainerService` of `framework` in a child process. Use it as a context manager."""
