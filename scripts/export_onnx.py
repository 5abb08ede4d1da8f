#!/usr/bin/env python
"""Export a network to ONNX, or to its framework's own inference format; see --help."""

from parity.cli.entry import run

if __name__ == "__main__":
    run("export")
