"""The networks and recipes of `parity`, spelled in Paddle. The twin of `torch_impl`, file by file and name by name."""
