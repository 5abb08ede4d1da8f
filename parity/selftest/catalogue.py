"""The planted faults: realistic mistakes in porting a network and its training, with the place and cause that the check must report."""

from __future__ import annotations

from parity.selftest.fault import Fault
from parity.selftest.of_branches import BRANCHES, HEADS, RESPONSE, UNEVEN
from parity.selftest.of_data import AUGMENTATION, DATA, PREPROCESSING
from parity.selftest.of_gradients import BACKWARD
from parity.selftest.of_layers import BATCH_NORM, DROPOUT, LAYERS, POOLING
from parity.selftest.of_ports import TO_PYTORCH
from parity.selftest.of_residuals import RESIDUALS
from parity.selftest.of_resumption import RESUMPTION
from parity.selftest.of_threads import THREADS
from parity.selftest.of_training import LOSS, OPTIMIZER, SCHEDULE
from parity.selftest.of_weights import CONVERSION, INIT, WEIGHTS

GROUPS = (
    CONVERSION,
    WEIGHTS,
    INIT,
    LAYERS,
    DROPOUT,
    BATCH_NORM,
    POOLING,
    RESPONSE,
    UNEVEN,
    BRANCHES,
    HEADS,
    RESIDUALS,
    LOSS,
    OPTIMIZER,
    SCHEDULE,
    DATA,
    AUGMENTATION,
    PREPROCESSING,
    BACKWARD,
    RESUMPTION,
    THREADS,
    TO_PYTORCH,
)

FAULTS: dict[str, Fault] = {fault.name: fault for group in GROUPS for fault in group}
"""All faults by name."""
