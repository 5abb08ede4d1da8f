"""Predictions and evaluations of a model in Paddle, PyTorch or ONNX Runtime."""
