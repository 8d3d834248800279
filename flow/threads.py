"""One BLAS thread beside XLA's: idle OpenBLAS workers spin, and take cores from the gradient."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds


def single_blas_thread(wanted: bool = True) -> AbstractContextManager:
    """Scope in which numpy's and scipy's linear algebra runs in one thread.

    An explicit integrator's own work is on a few vectors and gains nothing from threads, but
    after each product their workers spin for a while: at 55,210 parameters plain `solve_ivp`, with
    threads, took about twice as long as the flow (`experiments/overhead.py`).
    """
    return _controller().limit(limits=1, user_api="blas") if wanted else nullcontext()
