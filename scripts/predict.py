#!/usr/bin/env python
"""Predict the classes of pictures with a run, a safetensors or an ONNX file; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("predict")
