"""Files that are either the old version or the new one, never half of one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing-{secrets.token_hex(4)}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
