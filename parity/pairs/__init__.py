"""Parity of anybody's pair of models: an unmodified `paddle.nn.Layer` and an unmodified `torch.nn.Module`, watched by hooks."""
