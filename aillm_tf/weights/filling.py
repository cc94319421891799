"""Models whose variables start with pretrained values: no random ones are drawn first, and none is copied.

A Keras layer built inside `keras.StatelessScope` puts off the initial values of its variables until the scope ends.
Here that moment is used to read each tensor of a checkpoint once, into the memory that the variable keeps. For a model
of 500 M parameters that saves 40 seconds of drawing normal numbers, and a second copy of the largest tensor.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
_pending: contextvars.ContextVar[list | None] = contextvars.ContextVar("aillm_pending_values", default=None)


def filled(make: Callable[[], T], fill: Callable[[T], None]) -> T:
    """Makes a model and fills it.

    Args:
        make: returns the built model (a Keras layer).
        fill: gives its variables their values through :func:`give`; those it leaves out start as their layers want.

    Returns:
        The model.

    Raises:
        Exception: whatever `make`, `fill` or the reading of a value raises.
    """
    import keras

    pending: list[tuple[Any, Callable[[], np.ndarray]]] = []
    errors: list[Exception] = []
    given = set()

    def starts_with(variable, read):
        def initial(shape, dtype=None):
            # Keras would leave variables half initialised behind an exception, so that comes after the scope.
            try:
                value = None if errors else tensor(read(), dtype)
            except Exception as error:
                errors.append(error)
            given.add(id(variable))
            return keras.ops.zeros(shape, dtype) if errors else value

        return initial

    with keras.StatelessScope():
        made = make()
        token = _pending.set(pending)
        try:
            fill(made)
        except Exception as error:
            errors.append(error)
            pending = [(variable, None) for variable in made.variables]
        finally:
            _pending.reset(token)
        for variable, read in pending:
            # JAX compiles the initial values of large variables, of which these would become constants
            own = keras.backend.backend() == "tensorflow"
            variable._initializer = starts_with(variable, read) if own else keras.initializers.Zeros()
    if errors:
        raise errors[0]
    for variable, read in pending:
        if id(variable) not in given:  # nor has another version of Keras put anything off
            variable.assign(read())
    return made


def give(variable: Any, read: Callable[[], np.ndarray]) -> None:
    """Assigns what `read` returns: now, or within :func:`filled` when the variable gets its first value."""
    pending = _pending.get()
    if pending is None:
        variable.assign(read())
    else:
        pending.append((variable, read))


def tensor(array: np.ndarray, dtype: str | None = None):
    """An array as a tensor of the backend, which must not be changed afterwards.

    TensorFlow takes over the memory of a new array that lies on a 64-byte boundary.
    """
    import keras

    ours = array.flags.writeable and array.flags.c_contiguous and array.size and not array.ctypes.data % 64
    if keras.backend.backend() != "tensorflow" or not ours or dtype not in (None, array.dtype.name):
        return keras.ops.convert_to_tensor(array, dtype)
    import tensorflow as tf

    if array.dtype.name == "bfloat16":  # which DLPack for numpy does not know
        return tf.bitcast(tensor(array.view(np.uint16)), tf.bfloat16)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
