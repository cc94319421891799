"""What a test of meshes runs in a process of its own: `python mesh_program.py MESH LAYOUT [options of pretrain]`.

Prints the bytes that preflight says a device holds, and those that XLA's compiler for CPUs counts, as JSON.
"""

import json
import sys

from aillm_tf.cli import load_recipe
from aillm_tf.tpu.capture import capture
from aillm_tf.tpu.mesh import laid_on, traced_step, train_program
from aillm_tf.tpu.preflight import batch_of
from aillm_tf.tpu.topology import topology

mesh, layout, *options = sys.argv[1:]
given = ["--training.mesh", mesh, "--training.layout", layout]
captured = capture(load_recipe("pretrain"), [*options, *given], strategy="auto")
batch = batch_of(captured.data, laid_on(topology("v5e:2x4"), mesh), captured.task.accumulate)
step, _ = traced_step(captured.task, batch)
counted = step.lower().compile().memory_analysis().argument_size_in_bytes
print(json.dumps({"held": train_program(captured.task, batch).bytes, "counted": counted}))
