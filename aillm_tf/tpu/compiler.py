"""Compile a StableHLO program with the TPU compiler, on a machine with or without a TPU.

    python -m aillm_tf.tpu.compiler PROGRAM.mlir v5e:2x4 8

It runs in a process of its own, which imports jax and libtpu but not TensorFlow, as libtpu ends the process on some
errors. Prints one line of JSON. What was compiled once is kept in the cache folder, so that a run that was stopped goes
on where it was, and other prices or efficiencies cost nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

INSTALL = 'pip install "aillm_tf[preflight]" (jax 0.10.2, libtpu 0.0.21.1; Linux)'

# an element type's bytes, by its name in HLO
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
_COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|[fsu]\d+)\[(?P<sizes>[\d,]*)\]")


_SIZE = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class CompileError(RuntimeError):
    """The TPU compiler refused the program, in its own words."""


class OutOfMemory(CompileError):
    """The program needs more memory than a chip has.

    Attributes:
        used, capacity: bytes, as the compiler counts them.
        largest: (bytes, name of the operation, its shape) of the largest temporaries, the largest first.
    """

    def __init__(self, message: str):
        self.used, self.capacity = (
            int(float(number) * _SIZE[unit])
            for found in re.findall(r"Used ([\d.]+)([BKMGT]) of ([\d.]+)([BKMGT]) hbm", message)[:1]
            for number, unit in (found[:2], found[2:])
        )
        entry = r"Size: ([\d.]+)([BKMGT])\s+(?:Operator: op_name=\"([^\"]*)\".*\s+)?Shape: (\S+)"
        self.largest = [
            (int(float(number) * _SIZE[unit]), name, shape.partition("{")[0])
            for number, unit, name, shape in re.findall(entry, message)
        ]
        super().__init__(message)


def compile_for_tpu(program: str, topology: str, replicas: int, partitions: int = 1) -> dict:
    """Compiles a program for a slice.

    Args:
        program: StableHLO.
        topology: name of the slice, as in "v5e:2x4".
        replicas: copies of the program that run side by side, each on other rows; or
        partitions: devices that one program is spread over (GSPMD). Their product is the devices used.

    Returns:
        ``device``, ``seconds``, ``argument_bytes``, ``output_bytes``, ``alias_bytes``, ``temp_bytes``, ``code_bytes``,
        ``flops``, ``bytes_accessed`` (of one chip and call) and ``collectives``: kind -> [count, bytes].

    Raises:
        ModuleNotFoundError: jax or libtpu is not installed; says what to install.
        OutOfMemory: it does not fit.
        CompileError: the compiler's message.
    """
    from aillm_tf.files import write_atomic
    from aillm_tf.weights.resolve import cache_folder

    missing = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the TPU compiler needs {' and '.join(missing)}: {INSTALL}")
    kept = cache_folder() / "tpu" / f"{_key(program, topology, replicas, partitions)}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    if found is None:
        found = _in_a_process(program, [topology, str(replicas), str(partitions)])
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(found))
    if message := found.get("out_of_memory"):
        raise OutOfMemory(message)
    return found


def _in_a_process(program: str, options: list[str]) -> dict:
    # no TPU is asked for, so neither Google's server that would describe one nor the lock that keeps two processes from
    # one; messages on stderr are the process's own
    own = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3"}
    environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.mlir")
        file.write_text(program, encoding="utf-8")
        command = [sys.executable, __file__, str(file), *options]
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -9:
        raise CompileError("the compiler's process was killed: this machine has too little memory for it")
    message = _reason(done.stderr) or f"the compiler's process ended with status {done.returncode}"
    if re.search(r"Used [\d.]+[BKMGT] of [\d.]+[BKMGT] hbm", message):
        return {"out_of_memory": message}
    raise CompileError(message)


def _key(program: str, *options) -> str:
    """Equal for equal programs, whatever the places in the source that they came from, and equal compilers."""
    text = re.sub(r"(?m)^#loc.*\n| loc\((?:[^()]|\([^()]*\))*\)|@[\w.$<>]+", "", program)
    versions = [importlib.metadata.version(name) for name in ("jax", "libtpu")]
    return hashlib.sha256(repr((text, options, versions)).encode()).hexdigest()[:32]


def _reason(stderr: str) -> str:
    """The error of the compiler's process, without its traceback."""
    lines = stderr.strip().splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return "\n".join(lines[starts[-1] :] if starts else lines[-20:])


def collectives(hlo: str) -> dict[str, list[int]]:
    """Kind -> [count, bytes of the results], of an optimised HLO program.

    Example:
        >>> collectives("  %a = (f32[8,2]{1,0}, bf16[4]{0}) all-reduce(%b, %c), replica_groups={{0,1}}")
        {'all-reduce': [1, 72]}
    """
    found: dict[str, list[int]] = {}
    for match in _COLLECTIVE.finditer(hlo):
        size = 0
        for array in _ARRAY.finditer(match["type"]):
            count = 1
            for axis in filter(None, array["sizes"].split(",")):
                count *= int(axis)
            size += count * _BYTES.get(array["dtype"], 4)
        counts = found.setdefault(match["kind"], [0, 0])
        counts[0] += 1
        counts[1] += size
    return found


def stablehlo_only(program: str) -> str:
    """TensorFlow's lowering as libtpu takes it: its mhlo.copy becomes a convert to the same type.

    Example:
        >>> stablehlo_only("%1 = mhlo.copy %0 : tensor<2xf32>")
        '%1 = stablehlo.convert %0 : (tensor<2xf32>) -> tensor<2xf32>'
    """
    return re.sub(r"mhlo\.copy (%\S+) : (tensor<[^>]*>)", r"stablehlo.convert \1 : (\2) -> \2", program)


def main(program: str, topology: str, replicas: int, partitions: int) -> dict:
    import time

    import numpy as np
    from jax._src.interpreters import mlir as jax_mlir
    from jax.experimental import topologies
    from jaxlib import xla_client
    from jaxlib.mlir import ir

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    used = replicas * partitions
    if used > len(devices):
        raise ValueError(f"{topology} has {len(devices)} devices, {used} are wanted")
    devices = devices[:used]
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = replicas
    options.num_partitions = build.num_partitions = partitions
    text = stablehlo_only(Path(program).read_text(encoding="utf-8"))
    build.use_spmd_partitioning = partitions > 1
    build.use_shardy_partitioner = "sdy.mesh" in text  # how JAX writes shardings
    places = np.array([device.id for device in devices]).reshape(replicas, partitions)
    options.device_assignment = xla_client.DeviceAssignment.create(places)
    start = time.perf_counter()
    with jax_mlir.make_ir_context():
        compiled = devices[0].client.compile(ir.Module.parse(text), xla_client.DeviceList(tuple(devices)), options)
    seconds = time.perf_counter() - start
    memory, cost = compiled.get_compiled_memory_stats(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return {
        "device": devices[0].device_kind,
        "seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": cost.get("flops", 0.0),
        "bytes_accessed": cost.get("bytes accessed", 0.0),
        "collectives": collectives("\n".join(module.to_string() for module in compiled.hlo_modules())),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
