"""How a run can end."""

from __future__ import annotations


class Interrupted(Exception):
    """A run that was asked to stop, saved its state and can be continued."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
