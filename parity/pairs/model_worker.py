"""Anybody's model in a process of its own."""

from __future__ import annotations

from parity.backend.remote import RemoteService
from parity.pairs.model_server import ModelRun, ModelService

__all__ = ["ModelRun", "ModelWorker"]


class ModelWorker(RemoteService, ModelService, service=ModelService):
    """A `ModelService` of `framework` in a process of its own, which writes nothing beside the user's files. Use as a context manager."""

    ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}  # noqa: RUF012 - never changed
