"""Find and fetch one file of a package in a Python package index, by its sha256, without pip.

Reference: PEP 503 (HTML), PEP 691 (JSON) simple repository API.
"""

from __future__ import annotations

import html.parser
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of an answer
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")


class NotFound(RuntimeError):
    """No index offers the file; the text says where was looked."""


class File(NamedTuple):
    """One file that an index offers."""

    name: str
    url: str  # http(s):// or file://
    sha256: str | None  # None where the index does not say


def download(
    package: str, version: str, sha256: str, folder: Path, settings: dict[str, str], *, progress: bool = True
) -> Path:
    """Fetches the file of ``package`` that has the sha256; the caller checks it.

    Args:
        package: its name.
        version: its version.
        sha256: hexadecimal digest of the file wanted.
        folder: where to put the file.
        settings: pip's configuration: index-url, extra-index-url, find-links, no-index, cert, client-cert,
            trusted-host, proxy.
        progress: whether to draw a progress bar on stderr.

    Returns:
        The file.

    Raises:
        NotFound: no index has it, or none could be reached.
    """
    offered: list[File] = []
    looked: list[str] = []
    for place in _places(package, settings):
        try:
            files = _read_place(place, settings)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            looked.append(f"{_public(place)}: {error}")
            continue
        looked.append(f"{_public(place)}: {len(files)} files")
        offered += files
    of_version = [file for file in offered if _is_version(file.name, package, version)]
    candidates = [file for file in offered if file.sha256 == sha256]
    # Indexes made of plain folders state no digests: then the name decides, and the caller's check of the content.
    candidates += [file for file in of_version if file.sha256 is None]
    if not candidates:
        known = "".join(f"\n  {file.name} sha256={file.sha256}" for file in of_version)
        places = "".join(f"\n  {line}" for line in looked)
        raise NotFound(
            f"no file with sha256 {sha256}. "
            + (f"This version has:{known}" if known else f"No file of version {version} found in:{places}")
        )
    target = folder / Path(candidates[0].name).name
    try:
        _fetch(candidates[0].url, target, settings, progress)
    except OSError as error:
        raise NotFound(f"{_public(candidates[0].url)}: {error}") from error
    return target


def _places(package: str, settings: dict[str, str]) -> list[str]:
    """Returns the pages and folders that may list the package, in pip's order."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    indexes = [] if _is_true(settings.get("no-index", "")) else [settings.get("index-url", "https://pypi.org/simple")]
    indexes += [] if not indexes else settings.get("extra-index-url", "").split()
    return settings.get("find-links", "").split() + [f"{url.rstrip('/')}/{name}/" for url in indexes]


def _read_place(place: str, settings: dict[str, str]) -> list[File]:
    if place.startswith(("http://", "https://")):
        answer = _get(place, settings, headers={"Accept": _ACCEPT})
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        if "json" in answer.headers.get("Content-Type", ""):
            listed = answer.json()["files"]
            return [File(f["filename"], urljoin(answer.url, f["url"]), f["hashes"].get("sha256")) for f in listed]
        return _links(answer.text, answer.url)
    path = Path(url2pathname(urlsplit(place).path) if place.startswith("file:") else place).expanduser().absolute()
    if path.is_dir() and (path / "index.html").exists():
        path = path / "index.html"
    if path.is_dir():
        return [File(f.name, f.as_uri(), None) for f in sorted(path.iterdir()) if f.name.endswith(_ARCHIVES)]
    return _links(path.read_text(encoding="utf-8"), path.as_uri()) if path.exists() else []


def _links(page: str, base: str) -> list[File]:
    files = []

    class Anchors(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            link = dict(attributes).get("href") if tag == "a" else None
            if link:
                url, _, fragment = urljoin(base, link).partition("#")
                digest = re.search(r"sha256=([0-9a-fA-F]{64})", fragment)
                name = unquote(urlsplit(url).path.rpartition("/")[2])
                files.append(File(name, url, digest[1].lower() if digest else None))

    Anchors().feed(page)
    return files


def _is_version(filename: str, package: str, version: str) -> bool:
    from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    try:
        read = parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename
        name, of_file = read(filename)[:2]
        return name == canonicalize_name(package) and of_file == Version(version)
    except (ValueError, InvalidVersion):  # other kinds of file, and names from before the standards
        return False


def _fetch(url: str, target: Path, settings: dict[str, str], progress: bool) -> None:
    if url.startswith("file:"):
        shutil.copyfile(url2pathname(urlsplit(url).path), target)
        return
    from tqdm.auto import tqdm

    answer = _get(url, settings, stream=True)
    answer.raise_for_status()
    size = int(answer.headers.get("Content-Length", 0)) or None
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=None if progress else True)
    with bar, target.open("wb") as stream:
        for block in answer.iter_content(1 << 18):
            stream.write(block)
            bar.update(len(block))


def _get(url: str, settings: dict[str, str], **options):
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=2))
    session.mount("https://", HTTPAdapter(max_retries=2))
    trusted = urlsplit(url).hostname in {host.partition(":")[0] for host in settings.get("trusted-host", "").split()}
    proxy = settings.get("proxy")
    return session.get(
        url,
        timeout=_TIMEOUT,
        verify=False if trusted else settings.get("cert", os.environ.get("REQUESTS_CA_BUNDLE", True)),
        cert=settings.get("client-cert"),
        proxies={"http": proxy, "https": proxy} if proxy else None,
        **options,
    )


def _public(url: str) -> str:
    """Returns the address without the password it may carry."""
    return re.sub(r"//[^/@]*@", "//", url)


def _is_true(text: str) -> bool:
    return text.lower() in {"1", "true", "yes", "on", "y", "t"}
