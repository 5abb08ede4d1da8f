"""The comparison engine: sources of tensors in, verdicts and the first divergence out."""
