"""A user's model in a worker process."""

from __future__ import annotations

from parity.backend.remote import RemoteService
from parity.pairs.model_server import ModelRun, ModelService

__all__ = ["ModelRun", "ModelWorker"]


class ModelWorker(RemoteService, ModelService, service=ModelService):
    """A `ModelService` of `framework` in a worker process, which writes no files near the user's. Use as a context manager."""

    ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}  # noqa: RUF012 - never changed
