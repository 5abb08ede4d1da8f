"""The networks and recipes of `parity`, spelled in PyTorch. The twin of `paddle_impl`, file by file and name by name."""
