#!/usr/bin/env python
"""Test a run, a safetensors or an ONNX file by several views of every picture; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("evaluate")
