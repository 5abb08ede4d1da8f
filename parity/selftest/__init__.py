"""Planted faults: what goes wrong when networks are ported, each as a small change of one side, and changes that harm nothing.

`catalogue` lists the faults, `innocent` what must not be called one, `patches` changes a side inside its worker.
"""
