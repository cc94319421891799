"""Several JAX processes: the hosts of a TPU, and two processes on this machine that train as one."""

import http.server
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from worker_processes import command, finish, free_ports, losses

from aillm_tf.chips import Chips
from aillm_tf.training import cluster
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.cluster import Cluster, of_tpu
from aillm_tf.training.metrics_log import read_rows

PROGRAM = Path(__file__).with_name("jax_program.py")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


# The hosts of a TPU


def test_a_tpu_host_without_others_is_no_cluster(monkeypatch):
    assert of_tpu({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    monkeypatch.setattr(cluster, "chips", lambda: Chips(0, "", [], {}))
    assert of_tpu({}) is None


def test_a_tpu_host_that_does_not_know_its_number_is_told():
    with pytest.raises(ValueError, match="2 hosts.*set TPU_WORKER_ID"):
        of_tpu({"TPU_WORKER_HOSTNAMES": "a,b"})


@pytest.mark.parametrize("endpoints", ["10.0.0.1,10.0.0.2", "unknown:0:10.0.0.1,unknown:1:10.0.0.2"])
def test_the_metadata_of_a_tpu_machine_say_who_its_hosts_are(endpoints, monkeypatch):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = {"worker-network-endpoints": endpoints, "agent-worker-number": "1"}
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(known[self.path.rpartition("/")[2]].encode())

        def log_message(self, *_):
            pass

    monkeypatch.setattr(cluster, "chips", lambda: Chips(4, "v5e", [], {}))
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = of_tpu({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"})
        server.shutdown()
    assert found == Cluster(("10.0.0.1:20000", "10.0.0.2:20000"), 1)


# Two processes


def same_weights(found, expected):
    """Of two saved tasks. No loss depends on the bias of the keys: rounding alone moves it, which Adam scales up."""
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert mine.keys() == theirs.keys()
    for name, values in theirs.items():
        counts = np.ones(values.shape, bool)
        if name.endswith("attention/qkv/bias"):
            np.split(counts, 3)[1][:] = False
        np.testing.assert_allclose(mine[name][counts], values[counts], rtol=0, atol=1e-5, err_msg=name)


def start(arguments, log, devices=1):
    """A process with so many CPU devices; what it prints is in the log, its errors beside that."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {
        **os.environ,
        **{"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        **{"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"},
        # nearly all of the time is the compiler's
        "JAX_COMPILATION_CACHE_DIR": str(log.parent.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with open(log, "ab") as output, open(log.with_suffix(".err"), "ab") as errors:
        return subprocess.Popen(arguments, stdout=output, stderr=errors, env=environment)


def addresses():
    return [f"127.0.0.1:{port}" for port in free_ports(2)]


def programs(folder, hosts, devices, calls):
    """What functions of jax_program.py give in each process: `calls` of (its strategy, its number)."""
    workers = []
    for i in range(len(hosts)):
        several = {"name": "multi_worker", "cluster": hosts, "worker": i, "timeout": 100}
        strategy = several if len(hosts) > 1 else {}
        given = [sys.executable, str(PROGRAM), str(folder), json.dumps(calls(strategy, i))]
        workers.append(start(given, folder / f"of_{len(hosts)}_{i}.log", devices))
    finish(workers, folder)
    return [json.loads(path.read_text().splitlines()[-1]) for path in sorted(folder.glob(f"of_{len(hosts)}_*.log"))]


OPTIONS = {"accumulate": 2, "steps_per_execution": 3, "spike_guard": 4.0, "ema": 0.9}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """(folder, what one process with four devices computes, what each of two processes with two devices does)."""
    folder = tmp_path_factory.mktemp("processes")
    kind = "TextClassifier"

    def calls(strategy, i):
        saved, mine, chiefs = (
            str(folder / f"{name}_{len(strategy)}_{number}")
            for name, number in (("saved", i), ("left", i), ("left", 0))
        )
        found = {
            "whole": ("whole", [kind, strategy, saved], OPTIONS),
            "left": ("left", [kind, strategy, i == 1, mine, chiefs], {}),
        }
        if not strategy:
            return {"make": ("make", [[kind]], {}), **found}
        return {**found, "refused": ("refused", [strategy], {})}

    (one,) = programs(folder, addresses()[:1], 4, calls)
    return folder, one, programs(folder, addresses(), 2, calls)


@needs_jax
@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(computed):
    _, one, two = computed
    for found in two:
        np.testing.assert_allclose(found["whole"]["losses"], one["whole"]["losses"], rtol=0, atol=1e-5)


@needs_jax
@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(computed):
    folder = computed[0]
    same_weights(folder / "saved_4_0", folder / "saved_0_0")
    same_weights(folder / "saved_4_1", folder / "saved_0_0")


@needs_jax
@pytest.mark.slow
def test_every_process_has_the_scores_and_rows_of_all(computed):
    _, one, two = computed
    expected = one["whole"]
    for found in (process["whole"] for process in two):
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)
        assert found["rows"]["row"] == list(range(14))
        for name, values in expected["rows"].items():
            np.testing.assert_allclose(found["rows"][name], values, rtol=1e-5, atol=1e-5)
        assert found["answers"] == two[0]["whole"]["answers"]


@needs_jax
@pytest.mark.slow
def test_sigterm_to_one_process_ends_both_and_the_run_goes_on(computed):
    _, one, two = computed
    (expected, _) = one["left"]["parts"]
    assert len(expected) == 6
    for found in (process["left"] for process in two):
        assert (found["status"], [len(part) for part in found["parts"]]) == (143, [4, 2])
        np.testing.assert_allclose(np.concatenate(found["parts"]), expected, rtol=0, atol=1e-5)


@needs_jax
@pytest.mark.slow
def test_the_chief_alone_writes_checkpoints(computed):
    folder = computed[0]
    assert Checkpoints(folder / "left_4_0").latest().step == 6
    assert not (folder / "left_4_1").exists()


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("i", "words"),
    [
        (0, "do not agree on a number: worker 0: 0, worker 1: 1"),
        (1, "splits weights"),
        (2, "splits weights"),
        (3, "give all of them the same number of devices"),
    ],
)
def test_what_several_processes_cannot_do_is_said(i, words, computed):
    for found in computed[2]:
        assert words in found["refused"][i]


@needs_jax
@pytest.mark.slow
def test_a_worker_that_does_not_come_is_named(tmp_path):
    hosts = addresses()
    code = f"import aillm_tf as ai; ai.strategy('multi_worker', cluster={hosts}, worker=0, timeout=2)"
    process = start([sys.executable, "-c", code], tmp_path / "alone.log")
    assert process.wait(timeout=120) == 1
    last = (tmp_path / "alone.err").read_text().splitlines()[-1]
    assert last.startswith(f"TimeoutError: worker 1 ({hosts[1]}) did not come within 2 s")


# A run of two processes


def recipes(out, texts, folder):
    hosts = addresses()
    options = ("--training.strategy", "multi_worker", "--training.worker_timeout", "100")
    options += ("--training.cluster", json.dumps(hosts), "--training.worker")
    return [start(command(out, texts, *options, str(i)), folder / f"worker{i}.log") for i in range(2)]


@pytest.fixture(scope="module")
def one_process(reviews, tmp_path_factory):
    """The run of one process, and its texts."""
    folder = tmp_path_factory.mktemp("one")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(text for text, _ in reviews) + "\n", encoding="utf-8")
    finish([start(command(folder / "run", texts), folder / "one.log")], folder)
    return folder / "run", texts


@needs_jax
@pytest.mark.slow
def test_a_run_of_which_a_worker_is_killed_goes_on_and_ends_as_that_of_one_process(one_process, tmp_path):
    expected, texts = one_process
    out = tmp_path / "run"
    chief, other = recipes(out, texts, tmp_path)
    while chief.poll() is None and max(losses(out), default=0) < 5:
        time.sleep(0.01)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert chief.wait(timeout=100) == 2
    log = (tmp_path / "worker0.err").read_text(errors="replace")
    assert "worker 1 (127.0.0.1:" in log and "is lost" in log and "Start the same command on every worker again" in log
    assert 4 <= Checkpoints(out / "checkpoints").latest().step < 12
    finish(recipes(out, texts, tmp_path), tmp_path)
    mine, theirs = ([row for row in read_rows(run / "metrics.jsonl") if "epoch" in row] for run in (out, expected))
    np.testing.assert_allclose(list(losses(out).values()), list(losses(expected).values()), atol=1e-5)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [8, 12]
    np.testing.assert_allclose([row["val_loss"] for row in mine], [row["val_loss"] for row in theirs], atol=1e-5)
    same_weights(out / "model", expected / "model")
