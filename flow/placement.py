"""On which device an objective computes."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax


def find_device(device: Any) -> jax.Device | None:
    """The device of that name, "cpu", "gpu" or "tpu", or a device itself; None for JAX's default.

    >>> find_device("cpu").platform
    'cpu'

    Raises
    ------
    TypeError, ValueError
        It is neither, or there is none here.
    """
    if device is None or isinstance(device, jax.Device):
        return device
    if not isinstance(device, str):
        raise TypeError(
            f"device must be 'cpu', 'gpu', 'tpu' or one of jax.devices(), got {device!r}"
        )
    try:
        return jax.local_devices(backend=device)[0]
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is not here; JAX has {jax.devices()}. Where hardware is missing "
            "there, jax may want another build, pip install 'jax[cuda12]' for instance"
        ) from None


def address(device: jax.Device) -> tuple[str, int]:
    """What finds a device in another process."""
    return device.platform, device.id


def resident(address: tuple[str, int]) -> jax.Device | None:
    """The device of that address; None where it is not here."""
    try:
        found = jax.local_devices(backend=address[0])
    except RuntimeError:
        return None
    return next((device for device in found if device.id == address[1]), None)


def placed(function: Callable, device: jax.Device | None) -> Callable:
    """A jitted function that computes on that device, whatever its arguments are."""
    if device is None:
        return function

    def there(function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments: Any, **more: Any) -> Any:
            with jax.default_device(device):
                return function(*arguments, **more)

        return call

    call = there(function)
    call.lower = there(function.lower)
    return call
