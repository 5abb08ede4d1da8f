"""The first lines of every process that `parity.backend.launch` starts: a clean path for imports, and the end together with the parent.

Runs as a file, since `python -c` and `python -m` put the working directory on the path, and Python 3.10 cannot be told not to.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - before anything is imported
ROOT = os.path.dirname(os.path.dirname(HERE))  # noqa: PTH120
PACKAGES = ("parity", "paddle_impl", "torch_impl")


def main() -> None:
    """Runs the module that the command line names, as `python -m` would: child_main.py LIFELINE MODULE [ARGUMENT ...]."""
    # Python has put this file's folder first, whose modules must not hide packages of their names.
    sys.path[:] = [folder for folder in sys.path if folder != HERE]
    from importlib.machinery import PathFinder

    class Project:
        """Finds this project's packages in the checkout of this file, also for an interpreter that has others of these names or none."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            return PathFinder.find_spec(name, [ROOT]) if name in PACKAGES else None

    sys.meta_path.insert(0, Project)  # type: ignore[arg-type]
    lifeline, module = int(sys.argv[1]), sys.argv[2]
    del sys.argv[1:3]
    end_with_parent(lifeline)
    import runpy

    runpy.run_module(module, run_name="__main__", alter_sys=True)


def end_with_parent(lifeline: int) -> None:
    """Kills this process when the pipe `lifeline` has no writer left, as at any end of the parent, whatever this process computes then.

    Linux's kernel does it. Elsewhere a thread does, which has to wait for a call that holds the interpreter's lock.
    `PR_SET_PDEATHSIG` would follow the thread that began this process, and not the parent.
    """
    import fcntl
    import select
    import signal
    import stat
    import threading

    def wait() -> None:
        select.select([lifeline], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        if not stat.S_ISFIFO(os.fstat(lifeline).st_mode):
            return  # a program around the interpreter did not pass the pipe on
    except OSError:
        return
    if not hasattr(fcntl, "F_SETSIG"):
        threading.Thread(target=wait, daemon=True).start()
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent ended before
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
