"""From a trained task to a folder that TensorFlow Serving loads: strings in, answers out."""
