"""Small runs of `aillm train pretrain` in processes of their own, for the tests of several workers."""

import socket
import sys

from aillm_tf.training.metrics_log import read_rows


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def command(out, texts, *options):
    return [
        *(sys.executable, "-m", "aillm_tf.cli", "train", "pretrain", "--out", str(out), "--data.train", str(texts)),
        *("--data.validation", str(texts), "--data.deduplicate", "false", "--data.text", "0"),
        *("--model.preset", "tiny", "--model.vocab_size", "120", "--model.max_length", "16"),
        *("--training.batch_size", "6", "--training.steps", "12", "--training.checkpoint_every", "2"),
        *("--training.validation_every", "8", "--training.dtype", "float32", "--training.fixed_length", "true"),
        *options,
    ]


def finish(processes, folder):
    codes = [process.wait(timeout=550) for process in processes]
    logs = "".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("*.log"))
    assert codes == [0] * len(codes), logs


def losses(out):
    rows = read_rows(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []
    return {row["step"]: row["loss"] for row in rows if "epoch" not in row}
