"""What Keras callbacks remember, in checkpoints: patience goes on counting after a resume.

Keras's callbacks offer no state of their own, so a table says which attributes of which callbacks are one. Any other
callback takes part by `get_state()`, which returns JSON, and `set_state(state)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras
import numpy as np

REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


def get_states(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The state of every callback that has one.

    Args:
        callbacks: of one fit, between `on_train_begin` and `on_train_end`.

    Returns:
        JSON, one entry a callback; and arrays (the best weights of EarlyStopping) by name.
    """
    states, arrays = [], {}
    for callback in callbacks:
        if hasattr(callback, "get_state"):
            state = callback.get_state()
        else:
            names = next((names for kind, names in REMEMBERED.items() if isinstance(callback, kind)), ())
            state = {name: getattr(callback, name, None) for name in names}
            state = {name: np.asarray(value).item() for name, value in state.items() if value is not None}
            for i, weights in enumerate(getattr(callback, "best_weights", None) or ()):
                arrays[f"{len(states)}/{i:06d}"] = np.asarray(weights)
        if state:
            states.append({"name": type(callback).__name__, "state": state})
    return states, arrays


def set_states(
    callbacks: Sequence[keras.callbacks.Callback], states: Sequence[dict], arrays: dict[str, np.ndarray]
) -> None:
    """Gives every callback the state that one of its name had; warns where the callbacks are others now.

    Args:
        callbacks: of one fit, after `on_train_begin`, which Keras's callbacks take as a start from nothing.
        states, arrays: what `get_states` returned.
    """
    owners = list(callbacks)
    for number, entry in enumerate(states):
        owner = next((callback for callback in owners if type(callback).__name__ == entry["name"]), None)
        if owner is None:
            warnings.warn(
                f"the checkpoint has the state of a callback {entry['name']}, which this fit has not", stacklevel=2
            )
            continue
        owners.remove(owner)
        if hasattr(owner, "set_state"):
            owner.set_state(entry["state"])
            continue
        for name, value in entry["state"].items():
            setattr(owner, name, value)
        weights = [array for name, array in sorted(arrays.items()) if name.startswith(f"{number}/")]
        if weights:
            owner.best_weights = weights
