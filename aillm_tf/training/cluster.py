"""The workers of a run: who they are, meeting before TensorFlow starts, and naming the one that is missing.

A cluster is a list of addresses, `host:port`; the first is the chief, the only one that writes. It comes from the
options, from TF_CONFIG or from SLURM's variables; that of a TPU's hosts from its machine. `join` is plain sockets:
TensorFlow itself waits for a missing worker without saying which one it is, and JAX aborts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aillm_tf.chips import chips

FIRST_SLURM_PORT = 20_000
TPU_PORT = 20_000
WATCH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All workers of a run, and which one this process is.

    Attributes:
        addresses: `host:port` of every worker; that of the chief comes first.
        index: of this process among them.
    """

    addresses: tuple[str, ...]
    index: int

    def __post_init__(self):
        for address in self.addresses:
            if not re.fullmatch(r".+:\d+", address):
                raise ValueError(f"worker address {address!r}: give host:port")
        if not 0 <= self.index < len(self.addresses):
            raise ValueError(f"worker {self.index} of {len(self.addresses)} workers: numbers begin with 0")


_current: Cluster | None = None  # of this process, once its strategy was made


def is_chief() -> bool:
    """Whether this process writes: it is the first worker, or the only one."""
    return _current is None or _current.index == 0


def find(
    addresses: Sequence[str] = (), worker: int | None = None, environment: Mapping[str, str] = os.environ
) -> Cluster:
    """The cluster of the options, else of TF_CONFIG, else of SLURM.

    Args:
        addresses: `host:port` of every worker, in the same order everywhere.
        worker: which of them this process is; None: SLURM_PROCID.
        environment: the process's variables.

    Returns:
        The cluster.

    Raises:
        ValueError: nothing says who the workers are, or what says so is incomplete.

    Example:
        >>> find(["a:2222", "b:2222"], 1).index
        1
        >>> slurm = {"SLURM_NTASKS": "3", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "gpu[08-09]"}
        >>> find(environment={**slurm, "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_JOB_ID": "7"})
        Cluster(addresses=('gpu08:20007', 'gpu08:20008', 'gpu09:20007'), index=2)
    """
    if addresses:
        if worker is None:
            worker = environment.get("SLURM_PROCID")
        if worker is None:
            raise ValueError("a cluster of addresses needs the number of this worker: give training.worker, from 0")
        return Cluster(tuple(addresses), int(worker))
    if environment.get("TF_CONFIG"):
        try:
            config = json.loads(environment["TF_CONFIG"])
            jobs, task = config["cluster"], config["task"]
            ordered = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
            index = ordered.index((task["type"], int(task["index"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"TF_CONFIG does not say who this worker is ({type(error).__name__}: {error}): it must look like "
                '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
            ) from None
        return Cluster(tuple(jobs[job][i] for job, i in ordered), index)
    if int(environment.get("SLURM_NTASKS", 1)) > 1:
        return _of_slurm(environment)
    raise ValueError(
        "multi_worker needs to know its workers: give training.cluster and training.worker, set TF_CONFIG, or start "
        "the recipe with srun"
    )


def _of_slurm(environment: Mapping[str, str]) -> Cluster:
    def of_step(name: str) -> str:
        value = environment.get(f"SLURM_STEP_{name}") or environment.get(f"SLURM_{name}")
        if not value:
            raise ValueError(f"SLURM_STEP_{name} is not set: start the recipe with srun")
        return value

    hosts = []
    for name, ranges in re.findall(r"([^,\[]+)(?:\[([^\]]*)\])?,?", of_step("NODELIST")):
        if not ranges:
            hosts.append(name)
        for part in ranges.split(",") if ranges else ():
            first, _, last = part.partition("-")
            hosts += [f"{name}{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", of_step("TASKS_PER_NODE")):
        counts += [int(count)] * int(times or 1)
    port = FIRST_SLURM_PORT + int(environment.get("SLURM_JOB_ID", 0)) % 10_000
    addresses = [f"{host}:{port + i}" for host, count in zip(hosts, counts, strict=True) for i in range(count)]
    return Cluster(tuple(addresses), int(environment["SLURM_PROCID"]))


def of_tpu(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The hosts of the TPU that this machine belongs to, by their variables, else by the machine's metadata.

    Args:
        environment: the process's variables.

    Returns:
        The cluster; None where this host is the only one, or nothing says that there are others.

    Raises:
        ValueError: there are several, and nothing says which of them this one is.

    Example:
        >>> of_tpu({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"})
        Cluster(addresses=('10.0.0.1:20000', '10.0.0.2:20000'), index=1)
    """
    hosts, worker = environment.get("TPU_WORKER_HOSTNAMES"), environment.get("TPU_WORKER_ID")
    if hosts is None:
        if not chips().count:
            return None
        server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
        hosts, worker = (_metadata(server, key) for key in ("worker-network-endpoints", "agent-worker-number"))
    # each is a name, or name:number:ip
    names = [parts[2 if len(parts) == 3 else 0] for parts in (host.split(":") for host in hosts.split(",") if host)]
    if len(names) < 2:
        return None
    if not (worker or "").isdecimal():
        raise ValueError(
            f"this TPU has {len(names)} hosts, and nothing says which this one is: set TPU_WORKER_ID, from 0, in the "
            "order of TPU_WORKER_HOSTNAMES"
        )
    return Cluster(tuple(f"{name}:{TPU_PORT}" for name in names), int(worker))


def _metadata(server: str, key: str) -> str:
    """An attribute that Google Cloud gave this machine; "" where there is none."""
    address = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    try:
        asked = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def join(cluster: Cluster, timeout: float) -> None:
    """Makes this process a worker of the cluster: waits for all others, then this is what `is_chief` asks.

    Args:
        cluster: who they are.
        timeout: seconds to wait.

    Raises:
        TimeoutError: a worker did not come; names it.
    """
    global _current
    if len(cluster.addresses) > 1:
        (_gather if cluster.index == 0 else _report)(cluster, time.monotonic() + timeout, timeout)
    _current = cluster


def listen(address: str) -> socket.socket:
    """A server at the address of this worker.

    Raises:
        OSError: something else listens there, or nothing may.
    """
    port = address.rpartition(":")[2]
    try:
        return socket.create_server(("", int(port)), reuse_port=False)
    except OSError as error:
        raise OSError(
            error.errno, f"this worker cannot listen at its address {address}: {error.strerror}; give another port"
        ) from None


def _gather(cluster: Cluster, end: float, timeout: float) -> None:
    """The chief: listens at its own address until every worker has called, then lets all go."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listen(cluster.addresses[0]))
        calls: dict[int, socket.socket] = {}
        while len(calls) < len(cluster.addresses) - 1:
            missing = [i for i in range(1, len(cluster.addresses)) if i not in calls]
            server.settimeout(max(end - time.monotonic(), 0.01))
            try:
                call = stack.enter_context(server.accept()[0])
                call.settimeout(5)
                calls[int(call.recv(16))] = call
            except (TimeoutError, ValueError):
                if time.monotonic() < end:  # somebody else called, or hung up
                    continue
                message = f"{_named(cluster, missing)} did not come within {timeout:g} s"
                for call in calls.values():
                    call.sendall(message.encode())
                raise TimeoutError(f"{message}: start the same command on every worker") from None
        for call in calls.values():
            call.sendall(b"go")


def _report(cluster: Cluster, end: float, timeout: float) -> None:
    host, _, port = cluster.addresses[0].rpartition(":")
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5) as call:
                call.sendall(str(cluster.index).encode())
                call.settimeout(max(end - time.monotonic(), 0.01) + 5)
                answer = call.recv(4096).decode(errors="replace")
        except OSError:
            answer = ""
        if answer == "go":
            return
        if answer.startswith("worker "):  # else it was not a chief that waits, perhaps one of a run before
            raise TimeoutError(f"{answer}: start the same command on every worker")
        if time.monotonic() > end:
            raise TimeoutError(
                f"{_named(cluster, [0])}, the chief, did not answer within {timeout:g} s: start the same command there"
            )
        time.sleep(0.2)


def _named(cluster: Cluster, workers: Sequence[int]) -> str:
    return ", ".join(f"worker {i} ({cluster.addresses[i]})" for i in workers)


def agree(strategy, what: str, number: int) -> None:
    """Waits until every worker is here, and makes sure that all have the same number.

    Args:
        strategy: a `tf.distribute.Strategy`, or a `JaxStrategy`, of several workers.
        what: the number is, for the error.
        number: an int32.

    Raises:
        RuntimeError: the numbers differ; says which worker has which.
    """
    numbers = strategy.of_every_process(number) if _on_jax() else _of_every_replica(strategy, number)
    if len(np.unique(numbers)) > 1:
        of_worker = numbers.reshape(len(_current.addresses), -1)[:, 0] if _current else numbers
        raise RuntimeError(
            f"the workers do not agree on {what}: "
            + ", ".join(f"worker {i}: {number}" for i, number in enumerate(of_worker))
            + ". The run directory must lie on a file system that all workers share (-1: no checkpoint seen)"
        )


def _of_every_replica(strategy, number: int) -> np.ndarray:
    import tensorflow as tf

    @tf.function
    def gathered(number):
        def of_replica():
            context = tf.distribute.get_replica_context()
            mine = tf.one_hot(context.replica_id_in_sync_group, strategy.num_replicas_in_sync, dtype=tf.int32)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine * number)

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    return gathered(tf.constant(number)).numpy()


def _on_jax() -> bool:
    import keras

    return keras.backend.backend() == "jax"


def named_failures() -> contextlib.AbstractContextManager:
    """Within this context errors about a lost worker name it and say what to do."""
    if not _on_jax():
        return _named_by_tensorflow()
    from aillm_tf.training import jax_processes

    return jax_processes.named_failures()


def lost(workers: Sequence[int], reason: str) -> str:
    """What is said of workers that are gone."""
    who = _named(_current, workers) if _current and workers else "a worker"
    return (
        f"{who} is lost ({reason}). Start the same command on every worker again: the run goes on from its last "
        "checkpoint"
    )


@contextlib.contextmanager
def _named_by_tensorflow() -> Iterator[None]:
    import tensorflow as tf

    signs = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    )
    try:
        yield
    except (*signs, tf.errors.CancelledError, tf.errors.FailedPreconditionError) as error:
        gone = silent() or sorted({int(i) for i in re.findall(r"task:(\d+) heartbeat timeout", str(error))})
        raise RuntimeError(lost(gone, type(error).__name__)) from error


def watch_over_others() -> None:
    """Ends the waiting of this process once another worker's process is gone; a thread for as long as this one lives.

    TensorFlow itself notices only when heartbeats have been missing for the whole timeout.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context  # as TensorFlow's own, slower watch does

    def watch():
        gone = wait_for_a_loss()
        context.context().abort_collective_ops(tf.errors.UNAVAILABLE, f"{_named(_current, gone)} is gone")

    threading.Thread(target=watch, name="watch over other workers", daemon=True).start()


def wait_for_a_loss(over: threading.Event | None = None) -> list[int]:
    """Returns once workers are gone, their numbers; none where `over` was set before."""
    over, strikes, gone = over or threading.Event(), 0, []
    while strikes < 3:
        if over.wait(WATCH_SECONDS):
            return []
        gone = silent(ConnectionRefusedError)
        strikes = strikes + 1 if gone else 0
    return gone


def silent(problem: type[OSError] = OSError) -> list[int]:
    """The workers to whose addresses no connection can be made."""
    silent = []
    for i, address in enumerate(_current.addresses if _current else ()):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except problem:
            silent.append(i)
        except OSError:
            pass
    return silent
