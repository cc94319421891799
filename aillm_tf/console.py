"""How a command meets its user: one clean line for an error, log messages on stderr, no start-up chatter."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def clean_errors(debug: bool = False, prog: str = "aillm") -> Iterator[None]:
    """Shows an error the user can act on as one line ``aillm: ...`` and exits 2; Ctrl-C exits 130.

    Args:
        debug: print the traceback as well (``--debug``); AILLM_DEBUG=1 does the same.
        prog: the name before the colon.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output (`| head`) has left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, RuntimeError, ArithmeticError, ModuleNotFoundError) as error:
        if isinstance(error, (RuntimeError, ArithmeticError)) and not _raised_here(error):
            raise
        if debug or os.environ.get("AILLM_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.strerror and error.filename:
            message = f"{error.strerror}: {error.filename}"
        else:
            message = " ".join(str(error).split()) or type(error).__name__
        print(f"{prog}: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def prepare_process(debug: bool = False) -> None:
    """Lets this package's log messages reach stderr, and keeps TensorFlow's start-up chatter off it.

    Args:
        debug: show TensorFlow's messages too.
    """
    logger = logging.getLogger("aillm_tf")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    if not debug and "tensorflow" not in sys.modules and not any(isinstance(f, _QuietImport) for f in sys.meta_path):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport(importlib.abc.MetaPathFinder):
    """Drops what TensorFlow's C++ code says at informational level while it is imported.

    TF_CPP_MIN_LOG_LEVEL is read too late for that: messages before its logging starts always go to stderr.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module):
                with _without_chatter():
                    execute(module)

            spec.loader.exec_module = quietly
        return spec


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Holds back what the process writes to stderr; at the end, errors and warnings that matter come out."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            kept = [line for line in held if not line.startswith((b"I0000", b"WARNING: All log messages before absl"))]
            os.write(2, b"".join(kept))


def _raised_here(error: BaseException) -> bool:
    """Whether the error comes from this package, whose messages are written for users, and not from a library."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
