"""Recordings: some steps of anybody's training loop in a folder, their comparison, and their replay on the other side."""
