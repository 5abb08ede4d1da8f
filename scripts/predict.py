#!/usr/bin/env python
"""Predict the classes of pictures with a run, a safetensors or an ONNX file; see --help."""

import sys

from parity.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
