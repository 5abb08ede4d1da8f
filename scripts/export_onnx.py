#!/usr/bin/env python
"""Export a network to ONNX, or to its framework's own inference format; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("export_onnx")
