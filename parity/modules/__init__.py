"""Descriptions of user modules of both frameworks: kinds of layers, settings, arrays, and the records of hooks."""
