"""A package index on the loopback with packages made up here, and nothing of the machine's own pip configuration."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile

import pytest


def wheel_bytes(package: str, version: str, files: dict[str, bytes], tag: str) -> bytes:
    info = f"{package}-{version}.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return content.getvalue()


def sdist_bytes(package: str, version: str, files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{package}-{version}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


class Index:
    """Files by name, and the requests that were made for them."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.as_json = False
        self.with_digests = True

    def add(self, name: str, content: bytes) -> str:
        """Offers a file and returns its sha256."""
        self.files[name] = content
        return hashlib.sha256(content).hexdigest()

    def add_wheel(self, files: dict[str, bytes], package="pack", version="1.0", tag="py3-none-any") -> str:
        return self.add(f"{package}-{version}-{tag}.whl", wheel_bytes(package, version, files, tag))

    def add_sdist(self, files: dict[str, bytes], package="pack", version="1.0") -> str:
        return self.add(f"{package}-{version}.tar.gz", sdist_bytes(package, version, files))

    def answer(self, path: str) -> tuple[str, bytes] | None:
        self.requests.append(path)
        kind, _, name = path.strip("/").partition("/")
        if kind == "files":
            return ("application/octet-stream", self.files[name]) if name in self.files else None
        listed = {f: hashlib.sha256(c).hexdigest() for f, c in self.files.items() if f.startswith(name + "-")}
        if self.as_json:
            files = [{"filename": f, "url": f"/files/{f}", "hashes": {"sha256": d}} for f, d in listed.items()]
            page = json.dumps({"meta": {"api-version": "1.0"}, "name": name, "files": files})
            return "application/vnd.pypi.simple.v1+json", page.encode()
        links = [f"{f}#sha256={d}" if self.with_digests else f for f, d in listed.items()]
        page = "<!DOCTYPE html>" + "".join(f'<a href="/files/{link}">{link}</a>\n' for link in links)
        return "text/html", page.encode()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(cache, monkeypatch):
    index = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = index.answer(self.path)
            if answer is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index
    server.shutdown()
    server.server_close()
    thread.join()
