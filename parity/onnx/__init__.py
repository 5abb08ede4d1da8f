"""Export to ONNX: an exporter's graph is read back, verified against the network, and written anew in one form for both frameworks."""
