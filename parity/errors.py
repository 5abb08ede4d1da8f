"""The one error that a user can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is unusable: a name, a number, a file.

    The message is one line that names the problem and the way out. Every script turns it into
    `error: <message>` on stderr and exit code 2; any other exception is a bug of ours.
    """
