"""Files that are either the old version or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write that takes its name when it is whole and on the disk.

    Args:
        path: the file; its folder must exist.

    Yields:
        The file.

    Raises:
        OSError: the folder is missing or the disk is full; the old file is then untouched.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.bin")
        >>> with atomic_file(path) as file:
        ...     _ = file.write(b"done")
        >>> path.read_bytes()
        b'done'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: str | os.PathLike, text: str) -> Path:
    """Writes a UTF-8 text file by renaming a finished temporary one over it.

    Args:
        path: the file; its folder must exist.
        text: the whole content.

    Returns:
        The path.

    Raises:
        OSError: the folder is missing or the disk is full; the old file is then untouched.

    Example:
        >>> import tempfile
        >>> write_atomic(Path(tempfile.mkdtemp(), "a.txt"), "done").read_text()
        'done'
    """
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))
    return Path(path)
