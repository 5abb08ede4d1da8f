"""The version of this package."""

import subprocess
from pathlib import Path

__version__ = "0.2.0"


def git_commit(file: Path = Path(__file__)) -> str:
    """Return the commit of the clone that holds `file`, with `+` if tracked files were changed since; "" outside of a clone."""
    found = ""
    # The first command fails for an installed package, which may lie in somebody else's clone.
    for command in (("ls-files", "--error-unmatch", file.name), ("describe", "--always", "--exclude=*", "--dirty=+")):
        try:
            done = subprocess.run(("git", *command), cwd=file.parent, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        found = done.stdout.strip()
        if done.returncode:
            return ""
    return found
