"""ONNX from both sides: what an exporter wrote is read back as the network, proven to be it, and written anew in one form."""
