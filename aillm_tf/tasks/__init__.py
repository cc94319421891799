"""Tasks: backbone + head + what to learn + how to answer. Each is a `keras.Model`."""
