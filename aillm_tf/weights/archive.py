"""Unpack one named file or folder of a wheel or a source distribution, and nothing else."""

from __future__ import annotations

import difflib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple


class _Member(NamedTuple):
    name: str  # as the archive states it, less a source distribution's top folder
    is_file: bool  # a plain file: no link, no device
    open: Callable[[], BinaryIO]


def unpack(file: Path, path: str, target: Path) -> None:
    """Writes the archive's file or folder ``path`` to ``target``.

    Args:
        file: a wheel (zip) or a source distribution (tar or zip with one top folder, which ``path`` leaves out).
        path: inside the archive, with forward slashes.
        target: the file or folder to make; its parent exists.

    Raises:
        FileNotFoundError: the archive has nothing of that name.
        RuntimeError: the archive is damaged, or a member would be written outside ``target`` or is no plain file.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                members = [
                    _Member(info.filename, True, lambda info=info: opened.open(info))
                    for info in opened.infolist()
                    if not info.is_dir()
                ]
                _write(file, members if file.suffix == ".whl" else _without_top(members), path, target)
        else:
            with tarfile.open(file) as opened:
                members = [
                    _Member(info.name, info.isreg(), lambda info=info: opened.extractfile(info))
                    for info in opened.getmembers()
                    if not info.isdir()
                ]
                _write(file, _without_top(members), path, target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise RuntimeError(f"{file.name} is damaged: {error}") from error


def unpack_all(file: Path, target: Path) -> None:
    """Writes everything in a tar archive below the folder ``target``.

    Args:
        file: the archive, compressed in any way that ``tarfile`` knows.
        target: the folder to make; its parent exists.

    Raises:
        RuntimeError: the archive is damaged or empty, or a member would be written outside ``target`` or is no plain
            file.
    """
    try:
        with tarfile.open(file) as opened:
            members = [
                _Member("./" + info.name.removeprefix("./"), info.isreg(), lambda info=info: opened.extractfile(info))
                for info in opened.getmembers()
                if not info.isdir()
            ]
            if not members:
                raise RuntimeError(f"{file.name} is empty")
            _write(file, members, ".", target)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise RuntimeError(f"{file.name} is damaged: {error}") from error


def _without_top(members: list[_Member]) -> list[_Member]:
    return [member._replace(name=member.name.removeprefix("./").partition("/")[2]) for member in members]


def _write(file: Path, members: list[_Member], path: str, target: Path) -> None:
    exact = [member for member in members if member.name == path]
    inside = [member for member in members if member.name.startswith(path + "/")]
    if not exact and not inside:
        near = difflib.get_close_matches(path, [member.name for member in members], n=3, cutoff=0.3)
        raise FileNotFoundError(f"{file.name} has no file or folder {path!r}; near to it: {', '.join(near) or 'none'}")
    for member in exact[-1:] or inside:  # in an archive with two files of one name the last counts
        rest = member.name[len(path) + 1 :]
        parts = rest.split("/") if rest else []
        if "\\" in rest or any(part in {"", ".", ".."} or ":" in part for part in parts):
            raise RuntimeError(f"{file.name}: refused: {member.name!r} would be written outside the folder")
        if not member.is_file:
            raise RuntimeError(f"{file.name}: refused: {member.name!r} is a link or a device, not a plain file")
        place = target.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, place.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())  # the rename that follows must not outlive the content
