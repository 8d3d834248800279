"""What `import flow` brings in: JAX, and nothing that only some of its users need."""

import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = (
    "scipy.integrate scipy.special scipy.sparse optax diffrax matfree matplotlib xarray pandas "
    "sklearn networkx h5py tyro"
)


@pytest.mark.quick
def test_heavy_libraries_come_in_where_they_are_used():
    """Assert that none is imported with flow, and that methods are found all the same."""
    code = (
        "import flow, sys\n"
        f"print([name for name in {HEAVY.split()} if name in sys.modules])\n"
        "from flow import methods\n"
        "print(flow.methods.TSRKC3.__name__, methods is flow.methods)\n"
        "print(flow.__version__)\n"
        "flow.no_such_name"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split("\n")[:2] == ["[]", "TSRKC3 True"]
    assert found.stdout.split("\n")[2] == version("gradient-flow")
    assert "module 'flow' has no attribute 'no_such_name'" in found.stderr
