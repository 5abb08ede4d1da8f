"""The start of every process that `parity.backend.launch` starts: it sets the import path and ties the process to its parent.

It runs as a file: `python -c` and `python -m` put the working directory on the path, and Python 3.10 has no option against that.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - before anything is imported
ROOT = os.path.dirname(os.path.dirname(HERE))  # noqa: PTH120
PACKAGES = ("parity", "paddle_impl", "torch_impl")


def main() -> None:
    """Run the module that the command line names, as `python -m` would: child_main.py LIFELINE MODULE [ARGUMENT ...]."""
    # Python has put this file's folder first on the path. Its modules must not hide packages of the same names.
    sys.path[:] = [folder for folder in sys.path if folder != HERE]
    from importlib.machinery import PathFinder

    class Project:
        """Finds this project's packages in the checkout of this file, even where the interpreter has other packages of these names."""

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
    """Kill this process as soon as the pipe `lifeline` has no writer left, which is so when the parent has ended for any reason.

    On Linux the kernel sends the signal, whatever this process computes. Elsewhere a thread does, and it has to wait while a call holds
    the interpreter's lock. `PR_SET_PDEATHSIG` does not serve: it follows the parent's thread that started this process, not the parent.
    On Windows no pipe is passed: `lifeline` is -1, and nothing happens.
    """
    import select
    import signal
    import stat
    import threading

    def wait() -> None:
        select.select([lifeline], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        if not stat.S_ISFIFO(os.fstat(lifeline).st_mode):
            return  # a wrapper around the interpreter did not pass the pipe on
    except OSError:
        return
    import fcntl  # Windows, which lacks it, passes no pipe

    if not hasattr(fcntl, "F_SETSIG"):
        threading.Thread(target=wait, daemon=True).start()
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent has already ended
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
