"""LSTM (Hochreiter & Schmidhuber 1997; with a forget gate, Gers et al. 2000), in cuDNN's layout and formula.

i, f, o = sigmoid(x W + h U + b);  g = tanh(x W + h U + b);  c' = f c + i g;  h' = o tanh(c')
"""

from __future__ import annotations

import keras
from keras import ops

from aillm_tf.layers.base import Layer


class LSTM(Layer):
    """A layer of LSTM cells. Kernels are those of `keras.layers.LSTM`, gates in the order i, f, g, o.

    On a GPU a whole row is one cuDNN call.

    Args:
        units: size of the hidden state.

    Example:
        >>> layer = LSTM(4)
        >>> layer.build((None, None, 3))
        >>> layer(ops.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    def __init__(self, units: int, *, name: str = "lstm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.units = units
        self.lstm = keras.layers.LSTM(units, return_sequences=True, name="lstm", dtype=dtype)

    def build(self, input_shape):
        cell = self.lstm.cell
        cell.kernel_initializer = self.normal("kernel", input_shape[-1] ** -0.5)
        cell.recurrent_initializer = self.normal("recurrent_kernel", self.units**-0.5)
        self.lstm.build(input_shape)

    def call(self, x):
        """Hidden states of whole rows that begin with a state of zeros.

        Args:
            x: (batch, length, inputs).

        Returns:
            (batch, length, units) in the compute dtype.
        """
        return self.lstm(self.cast(x))

    def states(self, x, hidden, memory, starts=None):
        """Hidden state and memory cell after every token, from given ones on.

        Args:
            x: (batch, length, inputs).
            hidden, memory: (batch, units), before the first token.
            starts: (batch, length) bool, true where a document begins: what was before is forgotten.

        Returns:
            Two tensors (batch, length, units) in the compute dtype.
        """
        cell, batch, length = self.lstm.cell, ops.shape(x)[0], ops.shape(x)[1]
        recurrent = self.cast(cell.recurrent_kernel)
        # of all tokens at once: what is left for the loop is one matmul of the state
        inputs = ops.matmul(ops.reshape(self.cast(x), (-1, x.shape[-1])), self.cast(cell.kernel)) + self.cast(cell.bias)
        inputs = ops.transpose(ops.reshape(inputs, (batch, length, 4 * self.units)), (1, 0, 2))
        if starts is not None:  # in one tensor with the inputs: over two, `ops.scan` needs to know their length
            kept = self.cast(ops.logical_not(ops.transpose(starts)))[..., None]
            inputs = ops.concatenate([inputs, kept], axis=-1)

        def step(state, token):
            (h, c), z = state, token[..., : 4 * self.units]
            if starts is not None:
                h, c = (x * token[..., 4 * self.units :] for x in (h, c))
            i, f, g, o = ops.split(z + ops.matmul(h, recurrent), 4, axis=-1)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            return (h, c), (h, c)

        state = self.cast(hidden), self.cast(memory)
        if x.shape[1] == 1:  # the static length: that of an export's prompts is a tensor
            _, after = step(state, inputs[0])
            return tuple(x[:, None] for x in after)
        _, after = ops.scan(step, state, inputs)
        return tuple(ops.transpose(x, (1, 0, 2)) for x in after)
