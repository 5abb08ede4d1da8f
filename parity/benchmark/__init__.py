"""Timing of contestants that take turns."""
