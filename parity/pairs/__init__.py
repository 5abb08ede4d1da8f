"""Comparison of two user models: an unmodified `torch.nn.Module` and an unmodified `paddle.nn.Layer`, recorded by hooks."""
