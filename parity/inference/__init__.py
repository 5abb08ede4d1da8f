"""Prediction and evaluation of a model in Paddle, PyTorch or ONNX Runtime."""
