"""Planted faults: what goes wrong when networks are ported, each as a small change of one side, and changes that harm nothing.

`catalogue` lists the faults, `innocent_changes` what must not be called one, `worker_patches`,
`gradient_patches` and `training_patches` change a side inside its worker.
"""
