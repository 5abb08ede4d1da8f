#!/usr/bin/env python
"""Export a network to ONNX, or to its framework's own inference format; see --help."""

import sys

from parity.commands.export_onnx import main

if __name__ == "__main__":
    sys.exit(main())
