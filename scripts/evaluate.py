#!/usr/bin/env python
"""Test a run, a safetensors or an ONNX file by several views of every picture; see --help."""

import sys

from parity.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
