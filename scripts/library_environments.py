#!/usr/bin/env python
"""Make the environments of the libraries that `vgg-parity pairs` compares; see --help."""

import argparse
import subprocess
import sys
from pathlib import Path

FILES = {file.stem: file for file in sorted(Path(__file__).with_name("environments").glob("*.txt"))}


def main() -> int:
    """Make the environments that the command line names, and return the exit code."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # import from this clone, not from an installed version
    from parity.errors import InputError
    from parity.pairs.library_environments import environments_folder

    parser = argparse.ArgumentParser(
        description="Make a virtual environment for each library that `vgg-parity pairs` compares, with the exact packages of "
        "scripts/environments/NAME.txt. An environment that exists is kept. They take 9 GB in all, most of it for torch.",
    )
    parser.add_argument("name", choices=["all", *FILES], help="the environment, or all")
    parser.add_argument("folder", nargs="?", type=Path, help="where to make it (default: the cache of vgg-parity)")
    options = parser.parse_args()
    try:
        folder = options.folder or environments_folder()
        for name in FILES if options.name == "all" else [options.name]:
            print(make(name, folder.absolute()), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def make(name: str, folder: Path) -> str:
    """Make the environment `name` in `folder` unless it is there, and return a sentence; `CalledProcessError` if pip fails."""
    from parity.errors import InputError
    from parity.pairs.library_environments import LOCKED, interpreter

    environment, wanted = folder / name, FILES[name].read_text()
    kept = environment / LOCKED
    if kept.is_file() and kept.read_text() == wanted:
        return f"{environment} is there"
    if environment.is_dir() and any(environment.iterdir()) and not (environment / "pyvenv.cfg").is_file():
        raise InputError(f"{environment} exists and is no environment: pass another folder")
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    # The files name every package. Some libraries state versions that contradict each other, so pip must not resolve them.
    pip = [interpreter(environment), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", FILES[name]], check=True)
    kept.write_text(wanted)
    return f"{environment} is made"


if __name__ == "__main__":
    raise SystemExit(main())
