"""Tests and doctests run with the signatures' shapes and types checked by beartype.

The doors (`integrate`, `descend`, ...) are left out: their own checks are to meet what users type.
"""

import matplotlib as mpl
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

mpl.use("Agg")
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float
CHECKED = (
    "audit backprop circuits clock curve descent_loop differences driver dynamics exact "
    "explain.product explain.puzzle explain.rules explain.symbols explain.table explain.walk "
    "files leaf_check methods objective plots precision progress pytrees recording records "
    "sampling spectrum structure threads trajectory"
)
install_import_hook([f"flow.{name}" for name in CHECKED.split()], "conftest.typecheck")
