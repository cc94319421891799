"""The Transformer layer stack. Written in `keras.ops`; `fast.py` holds the only backend-specific code."""
