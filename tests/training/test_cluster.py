"""Who the workers are, meeting before the start, and two processes that train as one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from worker_processes import command, finish, free_ports, losses

from aillm_tf.training import cluster
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.cluster import Cluster, find, join
from aillm_tf.training.metrics_log import read_rows

THREE = {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "123456"}


@pytest.fixture
def addresses():
    return tuple(f"127.0.0.1:{port}" for port in free_ports(3))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Leave this process without a cluster, whatever a test joins."""
    monkeypatch.setattr(cluster, "_current", None)


# Who they are


def test_options_say_it_first():
    environment = {"TF_CONFIG": "{}", "SLURM_PROCID": "1", **THREE}
    assert find(["a:1", "b:2"], 0, environment) == Cluster(("a:1", "b:2"), 0)
    assert find(["a:1", "b:2"], None, environment).index == 1


def test_tf_config_with_a_chief_and_workers():
    config = {"cluster": {"worker": ["b:1", "c:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 1}}
    assert find(environment={"TF_CONFIG": json.dumps(config)}) == Cluster(("a:1", "b:1", "c:1"), 2)


@pytest.mark.parametrize(
    ("nodes", "tasks", "hosts"),
    [
        ("n1", "3", ["n1:23456", "n1:23457", "n1:23458"]),
        ("n[1-3]", "1(x3)", ["n1:23456", "n2:23456", "n3:23456"]),
        ("gpu[07,09],cpu1", "1(x2),1", ["gpu07:23456", "gpu09:23456", "cpu1:23456"]),
        ("n[08-09]", "2,1", ["n08:23456", "n08:23457", "n09:23456"]),
    ],
)
def test_slurm(nodes, tasks, hosts):
    step = {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_PROCID": "2"}
    assert find(environment={**THREE, **step}) == Cluster(tuple(hosts), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environment": {}}, "training.cluster and training.worker, set TF_CONFIG, or start the recipe with srun"),
        ({"environment": {"TF_CONFIG": '{"cluster": {}}'}}, "TF_CONFIG does not say who this worker is"),
        ({"environment": {**THREE, "SLURM_PROCID": "0"}}, "SLURM_STEP_NODELIST is not set"),
        ({"addresses": ["a:1", "b:2"], "environment": {}}, "training.worker"),
        ({"addresses": ["a:1", "b"], "worker": 0}, "worker address 'b': give host:port"),
        ({"addresses": ["a:1", "b:2"], "worker": 2}, "worker 2 of 2 workers"),
    ],
)
def test_what_is_missing_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        find(**arguments)


# Meeting


def meet(addresses, workers, timeout):
    """What each of these workers gets: None, or the error."""
    found = {}

    def run(index):
        try:
            join(Cluster(addresses, index), timeout)
            found[index] = None
        except TimeoutError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_come_in_any_order(addresses):
    assert meet(addresses, (2, 0, 1), timeout=20) == {0: None, 1: None, 2: None}


def test_a_worker_that_does_not_come_is_named_to_all(addresses):
    found = meet(addresses, (0, 2), timeout=1.5)
    assert set(found) == {0, 2}
    for message in found.values():
        assert message.startswith(f"worker 1 ({addresses[1]}) did not come within 1.5 s")


def test_a_chief_that_does_not_come_is_named(addresses):
    assert meet(addresses, (1,), timeout=1)[1].startswith(f"worker 0 ({addresses[0]}), the chief, did not answer")


def test_somebody_else_at_the_door_is_not_a_worker(addresses):
    def knock():
        for _ in range(40):
            try:
                with socket.create_connection(("127.0.0.1", int(addresses[0].rpartition(":")[2])), timeout=1) as call:
                    call.sendall(b"GET / HTTP/1.1\r\n")
                return
            except OSError:
                time.sleep(0.05)

    threading.Thread(target=knock).start()
    assert meet(addresses[:2], (0, 1), timeout=20) == {0: None, 1: None}


def test_only_the_first_is_the_chief(addresses):
    assert cluster.is_chief()
    meet(addresses[:1], (0,), timeout=1)
    assert cluster.is_chief()
    cluster._current = Cluster(addresses, 1)
    assert not cluster.is_chief()


def test_a_run_of_another_worker_writes_elsewhere_and_reads_the_checkpoints(addresses, tmp_path):
    from aillm_tf.training.run import Run

    cluster._current = Cluster(addresses, 1)
    Checkpoints(tmp_path / "checkpoints").save(3, {}, {})
    with Run(tmp_path, {"seed": 0}) as run:
        own = run.directory
        assert run.checkpoints().latest().step == 3
        assert (own / "config.yaml").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert not own.exists()


def test_who_no_longer_listens_is_gone(addresses, monkeypatch):
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 0.01)
    cluster._current = Cluster(addresses, 0)
    with contextlib.ExitStack() as stack:
        for address in addresses[::2]:
            stack.enter_context(socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))))
        assert cluster.wait_for_a_loss() == [1]
    over = threading.Event()
    over.set()
    assert cluster.wait_for_a_loss(over) == []


# Two processes


def start(out, texts, *options, log, environment=()):
    # one core each, so that two processes and the tests around them do not wait for each other
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", **dict(environment)}
    with open(log, "ab") as file:
        return subprocess.Popen(command(out, texts, *options), stdout=file, stderr=file, env=environment)


def pair(out, texts, folder, way):
    """Two workers of one run: by the option, or by TF_CONFIG."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for i in range(2):
        options, environment = ["--training.strategy", "multi_worker", "--training.worker_timeout", "250"], {}
        if way == "option":
            options += ["--training.cluster", json.dumps(hosts), "--training.worker", str(i)]
        else:
            config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
            environment = {"TF_CONFIG": json.dumps(config)}
        workers.append(start(out, texts, *options, log=folder / f"worker{i}.log", environment=environment))
    return workers


@pytest.fixture(scope="module")
def one_process(reviews, tmp_path_factory):
    """The run of one process, and its texts."""
    folder = tmp_path_factory.mktemp("one")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(text for text, _ in reviews) + "\n", encoding="utf-8")
    finish([start(folder / "run", texts, log=folder / "one.log")], folder)
    return folder / "run", texts


def same_run(found, expected):
    mine, theirs = losses(found), losses(expected)
    assert sorted(mine) == sorted(theirs) == list(range(1, 13))
    np.testing.assert_allclose([mine[step] for step in theirs], list(theirs.values()), atol=1e-5)
    mine, theirs = ([row for row in read_rows(out / "metrics.jsonl") if "epoch" in row] for out in (found, expected))
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [8, 12]
    np.testing.assert_allclose([row["val_loss"] for row in mine], [row["val_loss"] for row in theirs], atol=1e-5)


@pytest.fixture(scope="module")
def two_processes(one_process, tmp_path_factory):
    """The run of two workers to which nothing happens."""
    folder = tmp_path_factory.mktemp("two")
    finish(pair(folder / "run", one_process[1], folder, "TF_CONFIG"), folder)
    return folder / "run"


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_go_on_and_train_as_one_process(one_process, two_processes, tmp_path):
    """The first start ends with a worker killed, named by the other; the second, by TF_CONFIG, finishes the run."""
    expected, texts = one_process
    out = tmp_path / "run"
    chief, other = pair(out, texts, tmp_path, "option")
    while chief.poll() is None and max(losses(out), default=0) < 5:
        time.sleep(0.01)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert chief.wait(timeout=300) == 2
    log = (tmp_path / "worker0.log").read_text(errors="replace")
    assert "worker 1 (127.0.0.1:" in log and "is lost" in log and "Start the same command on every worker again" in log
    assert Checkpoints(out / "checkpoints").latest().step >= 4
    finish(pair(out, texts, tmp_path, "TF_CONFIG"), tmp_path)
    same_run(out, expected)
    ends = [(run / "model" / "model.safetensors").read_bytes() for run in (out, two_processes)]
    assert ends[0] == ends[1]
    found = json.loads((out / "report.json").read_text())["scores"]["loss"]
    assert found == pytest.approx(json.loads((expected / "report.json").read_text())["scores"]["loss"], abs=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_worker_saves_and_ends_both(one_process, tmp_path):
    expected, texts = one_process
    out = tmp_path / "run"
    workers = pair(out, texts, tmp_path, "option")
    while workers[0].poll() is None and max(losses(out), default=0) < 3:
        time.sleep(0.01)
    workers[1].send_signal(signal.SIGTERM)
    assert [worker.wait(timeout=300) for worker in workers] == [143, 143]
    step = Checkpoints(out / "checkpoints").latest().step
    assert step == max(losses(out)) < 12
    # one process alone goes on from there
    finish([start(out, texts, log=tmp_path / "alone.log")], tmp_path)
    same_run(out, expected)
