"""Several JAX processes that train as one: starting them, and what is done where one of them is lost.

A computation over all devices waits for every process, and JAX itself notices a lost one only when its heartbeats have
been missing for the whole timeout. So every process listens at its address: where nobody listens any more, there is no
process.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax

from aillm_tf.training import cluster as clusters

logger = logging.getLogger("aillm_tf")

FAILED = 2  # the exit status
PATIENCE = 10.0  # seconds for the others to come to the exit, or to notice that this process is there already

_door: socket.socket | None = None
_lost = False  # another process, so that nobody is waited for at the exit
_leaving = threading.Event()


def start(cluster: clusters.Cluster, timeout: float, on_tpu: bool = False) -> None:
    """Makes the devices of all processes those of JAX; waits for all of them.

    Args:
        cluster: the processes.
        timeout: seconds to wait, and after which one that fell silent is given up.
        on_tpu: JAX finds the processes of a TPU itself.

    Raises:
        RuntimeError: JAX has been used before.
        TimeoutError: a worker did not come; names it.
    """
    global _door
    if jax.distributed.is_initialized():
        raise RuntimeError("the strategy of several processes was made before: make it once, and keep it")
    clusters.join(cluster, timeout)
    # its handler of SIGTERM would stand in the way of the one that saves and leaves
    jax.config.update("jax_enable_preemption_service", False)
    who = {"cluster_detection_method": "deactivate", "coordinator_address": cluster.addresses[0]}
    who |= {"num_processes": len(cluster.addresses), "process_id": cluster.index}
    seconds = max(1, round(timeout))
    jax.distributed.initialize(
        **({} if on_tpu else who),
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=seconds,
        shutdown_timeout_seconds=seconds,
    )
    if on_tpu or cluster.index:  # else JAX's coordinator listens there
        _door = clusters.listen(cluster.addresses[cluster.index])
        threading.Thread(target=_answer, args=(_door,), name="answers other workers", daemon=True).start()
    atexit.register(_leave)


def _answer(door: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            door.accept()[0].close()


def _leave() -> None:
    """At the exit, before JAX waits for all processes there; without those that are lost it would, and then abort."""
    if _door is not None:
        _door.close()
    _leaving.set()
    if _lost:
        _end()


def _end() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


def _end_soon() -> None:
    _leaving.wait()
    time.sleep(PATIENCE)
    _end()


@contextlib.contextmanager
def named_failures() -> Iterator[None]:
    """As `cluster.named_failures`. A device that waits for a lost process cannot be stopped: this process is ended."""
    global _lost
    over = threading.Event()

    def watch():
        if gone := clusters.wait_for_a_loss(over):
            logger.error("%s", clusters.lost(gone, "its process is gone"))
            _end()

    threading.Thread(target=watch, name="watch over other workers", daemon=True).start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if gone := _gone_after(error):
            _lost = True
            raise RuntimeError(clusters.lost(gone, type(error).__name__)) from error
        # the others may be waiting for this process where no exception reaches them
        threading.Thread(target=_end_soon, name="ends this process", daemon=True).start()
        raise
    finally:
        over.set()


def _gone_after(error: BaseException) -> list[int]:
    """The workers whose loss is behind an error; those of a computation are JAX's, or Gloo's by their words."""
    if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):
        return []
    for _ in range(10):  # its connections end before the process does
        if gone := clusters.silent():
            return gone
        time.sleep(0.2)
    return []
