"""Paths and the hf: source; a hub made up here answers on the loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aillm_tf.weights.resolve import resolve

COMMITS = {"main": "a" * 40, "v2": "b" * 40}
HUB_FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"[PAD]\n",
    "pytorch_model.bin": b"pickle",
    "README.md": b"long",
    "original/model.safetensors": b"weights",
}


def test_path_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~") == tmp_path


def test_hub_id_without_scheme_is_recognised():
    with pytest.raises(FileNotFoundError, match="'hf:google-bert/bert-base-uncased'"):
        resolve("google-bert/bert-base-uncased")


def test_unknown_scheme_lists_the_known():
    with pytest.raises(FileNotFoundError, match="known are hf:, pypi: and paths"):
        resolve("ftp:somewhere")


def test_malformed_hub_id_is_refused():
    with pytest.raises(ValueError, match="'hf:org/name@revision'"):
        resolve("hf:a/b/c")


def test_folder_with_only_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"python -c .*save_file"):
        resolve(tmp_path)


def test_folder_with_a_pickle_beside_safetensors_is_taken(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "model.safetensors").touch()
    assert resolve(tmp_path) == tmp_path


@pytest.fixture
def hub():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            # "old" is a model from before safetensors
            known = {n: d for n, d in HUB_FILES.items() if "/old/" not in self.path or "safetensors" not in n}
            parts = self.path.partition("?")[0].strip("/").split("/")
            content, headers = None, {}
            if parts[:3] == ["api", "models", "org"] and parts[3] in {"name", "old"}:
                siblings = [{"rfilename": name, "size": len(data)} for name, data in known.items()]
                tree = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in known.items()]
                info = {"id": f"org/{parts[3]}", "sha": COMMITS.get(parts[-1]), "siblings": siblings}
                content = json.dumps(tree if "tree" in parts else info).encode()
            elif parts[0] == "org" and parts[2] == "resolve" and parts[-1] in HUB_FILES:
                content = HUB_FILES[parts[-1]]
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": parts[3]}
            self.send_response(200 if content is not None else 404)
            headers |= {} if content is not None else {"X-Error-Code": "RepoNotFound"}
            for name, value in {"Content-Length": str(len(content or b"")), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def resolve_elsewhere(
    source: str, home: Path, progress: bool = True, **environment: str
) -> subprocess.CompletedProcess:
    """The hub library reads its environment once, when it is imported: so each case has its own process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from aillm_tf.weights.resolve import resolve; print(resolve({source!r}, {progress=}))",
        ],
        env={**clean, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path)}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_hub_model_comes_from_the_endpoint_without_its_pickle(hub, tmp_path):
    done = resolve_elsewhere("hf:org/name", tmp_path, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    names = {file.name for file in Path(done.stdout.strip()).iterdir()}
    assert names == {"config.json", "model.safetensors", "vocab.txt"}


def test_hub_revision_is_asked_for(hub, tmp_path):
    done = resolve_elsewhere("hf:org/name@v2", tmp_path, HF_ENDPOINT=hub)
    assert done.stdout.strip().endswith(COMMITS["v2"]), done.stderr


def test_hub_model_that_is_cached_needs_no_network(hub, tmp_path):
    first = resolve_elsewhere("hf:org/name", tmp_path, HF_ENDPOINT=hub)
    second = resolve_elsewhere("hf:org/name", tmp_path, HF_HUB_OFFLINE="1")
    assert second.stdout == first.stdout, second.stderr


def test_hub_model_without_safetensors_says_where_one_may_be(hub, tmp_path):
    done = resolve_elsewhere("hf:org/old", tmp_path, HF_ENDPOINT=hub)
    assert "hf:org/old@refs/pr/NUMBER" in done.stderr


def test_hub_model_comes_silently_on_request(hub, tmp_path):
    assert resolve_elsewhere("hf:org/name", tmp_path, progress=False, HF_ENDPOINT=hub).stderr == ""


def test_unknown_hub_model_is_said(hub, tmp_path):
    done = resolve_elsewhere("hf:org/other", tmp_path, HF_ENDPOINT=hub)
    assert "the hub knows no such model" in done.stderr


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_the_hub_the_other_ways_are_named(tmp_path, offline):
    done = resolve_elsewhere("hf:org/name", tmp_path, **offline)
    assert "pypi:package==version/path" in done.stderr.splitlines()[-1]
