"""The first pass over a corpus: read, clean, judge; leave parts on the disk that the next stages and a rerun read.

Notable here:
- A part is on the disk as a whole or not at all, and knows where reading goes on after it. A rerun goes on from the
  last part; where a source has changed since, from before the first part that read it; where an evaluation set has,
  from the beginning.
- Batches are cut by their size alone, so the parts are the same with any number of processes.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from aillm_tf.data.contamination import SHORTEST, read_evaluation
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.prepare_sources import Document, SourceFile, read_documents
from aillm_tf.data.prepare_stages import EXAMPLES, Batch, Stages, plain
from aillm_tf.data.tables import Bad, Faults
from aillm_tf.files import atomic_file

logger = logging.getLogger("aillm_tf")

BATCH = 1 << 20  # characters that go through the stages together
PART = 48 << 20  # bytes of text of a part
_SMALL = 8 << 20  # bytes of sources that are not worth a process
ARRAYS = ("sizes", "files", "lines", "keys")


class Parts:
    """The documents that passed the first stages, some bytes of memory each, their texts on the disk.

    Attributes: ``sizes``, ``files``, ``lines``, ``keys`` (documents, ...), see `Batch` and `Document`;
    ``info`` a dict for each part; ``first`` (parts + 1,) the first document of each part.

    Args:
        folder: the work folder.
        names: of the parts.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, list(names)
        loaded = [load_arrays(folder / f"{name}.npz") for name in names]
        self.info: list[dict[str, Any]] = [json.loads(str(part["info"])) for part in loaded]
        arrays = {name: np.concatenate([part[name] for part in loaded]) for name in ARRAYS}
        self.sizes, self.files, self.lines, self.keys = arrays.values()
        self.first = np.cumsum([0, *(len(part["sizes"]) for part in loaded)])
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._offset = starts[:-1] - np.repeat(starts[self.first[:-1]], np.diff(self.first))

    def __len__(self) -> int:
        """Documents."""
        return len(self.sizes)

    def texts(self, documents: Sequence[int] | np.ndarray) -> Iterator[str]:
        """The texts of some documents, fastest in ascending order."""
        part, file = -1, None
        try:
            for document in documents:
                wanted = int(np.searchsorted(self.first, document, "right")) - 1
                if wanted != part:
                    if file is not None:
                        os.close(file)
                    part, file = wanted, os.open(self.folder / f"{self.names[wanted]}.text", os.O_RDONLY)
                raw = os.pread(file, int(self.sizes[document]), int(self._offset[document]))
                yield raw.decode("utf-8", "surrogatepass")
        finally:
            if file is not None:
                os.close(file)

    def band(self, number: int) -> np.ndarray:
        """(documents,) uint64, one band of every document."""
        counts = np.diff(self.first)
        paths = [self.folder / f"{name}.bands" for name in self.names]
        # a part of which no document stayed is an empty file, which cannot be mapped
        bands = [np.memmap(path, np.uint64, "r") if path.stat().st_size else np.zeros(0, np.uint64) for path in paths]
        return np.concatenate(
            [part[number * count : (number + 1) * count] for part, count in zip(bands, counts, strict=True)]
        )

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """What the first stages counted: stage -> what -> number."""
        total: dict[str, Counter] = {}
        for info in self.info:
            for stage, counts in info["counts"].items():
                total.setdefault(stage, Counter()).update(counts)
        return {stage: dict(counts) for stage, counts in total.items()}

    @property
    def examples(self) -> dict[str, dict[str, list]]:
        """stage -> what -> a few [place, text before, text after]."""
        total: dict[str, dict[str, list]] = {}
        for info in self.info:
            for stage, kinds in info["examples"].items():
                for what, found in kinds.items():
                    kept = total.setdefault(stage, {}).setdefault(what, [])
                    kept.extend(found[: EXAMPLES - len(kept)])
        return total


def read_parts(
    folder: Path, files: Sequence[SourceFile], options: PrepareOptions, processes: int, progress: bool
) -> Parts:
    """Bring the sources through the first stages, from where an earlier run stopped.

    Args:
        folder: the work folder.
        files: of the sources.
        options: of the corpus.
        processes: that clean and judge.
        progress: whether to draw a bar.

    Returns:
        :class:`Parts`.
    """
    evaluation = None
    if options.evaluation:
        evaluation = read_evaluation(options.evaluation, Stages(options).cleaners().values())
    looked_for = evaluation and evaluation.fingerprint
    names, start, done, ended = _resume(folder, files, looked_for)
    if not ended:
        for stale in folder.iterdir():  # unfinished, or made by later stages of other parts
            if stale.name.partition(".")[0] not in ("options", *names):
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        stages = Stages(options, evaluation)
        size = sum(file.size for file in files)
        if all(file.stamp for file in files) and size < _SMALL:
            processes = 1  # a process takes longer to start than so little text
        total = size if all(file.stamp for file in files) else None
        with tqdm(total=total, initial=done, desc="read", unit="B", unit_scale=True, disable=quiet(progress)) as bar:
            part = _Part(folder, files, looked_for, len(names), start)
            if evaluation is not None and not names:
                for name, texts, short in zip(evaluation.names, evaluation.texts, evaluation.too_short, strict=True):
                    part.counts["evaluation", f"{name}: looked for"] = texts
                    part.counts["evaluation", f"{name}: shorter than {SHORTEST} words, left alone"] = short
            for batch, read in _map(stages, _batches(files, options, start), processes):
                part.add(batch, read)
                bar.update(batch.counts["read", "bytes"] + len(read.documents))
                if part.size >= PART:
                    names.append(part.write(False))
                    part = _Part(folder, files, looked_for, len(names), part.next)
            names.append(part.write(True))
    return Parts(folder, names)


def quiet(progress: bool) -> bool | None:
    """tqdm's `disable`: also quiet where standard error is no terminal."""
    return None if progress else True


def _resume(
    folder: Path, files: Sequence[SourceFile], looked_for: str | None
) -> tuple[list[str], tuple[int, int], int, bool]:
    """(parts that hold, where to go on, bytes read, whether everything was read)."""
    names, start, read, ended = [], (0, 0), 0, False
    for index in range(1 << 30):
        name = f"part-{index:05d}"
        if ended or not (folder / f"{name}.npz").is_file():
            break
        info = json.loads(str(load_arrays(folder / f"{name}.npz")["info"]))
        changed = [uri for file, uri, stamp in info["stamps"] if files[file:] == [] or files[file][1:] != (uri, stamp)]
        if info["ended"] not in (0, len(files)):
            changed.append("the list of files")
        if info.get("looked_for") != looked_for:
            changed.append("an evaluation set")
        if changed:
            logger.warning("%s has changed since it was read: reading again from before it", changed[0])
            break
        names.append(name)
        start, ended = tuple(info["next"]), info["ended"] > 0
        read += info["counts"]["read"]["bytes"]
    if names and not ended:
        logger.info("going on after %d parts, at document %d of %s", len(names), start[1], files[start[0]].uri)
    return names, start, read, ended


class _Read(NamedTuple):
    """Documents of about `BATCH` characters."""

    documents: list[Document]
    bad: list[str]  # place and reason of the rows among them that could not be read
    next: tuple[int, int]  # where the documents after them begin


def _batches(files: Sequence[SourceFile], options: PrepareOptions, start: tuple[int, int]) -> Iterator[_Read]:
    faults = Faults(options.on_bad)
    batch, size = [], 0
    try:
        for document in read_documents(files, options, *start):
            start = (document.file, document.number + 1)
            if isinstance(document.text, Bad):
                faults.add(f"{files[document.file].uri}:{document.line}", document.text.reason)
            else:
                batch.append(document)
                size += len(document.text)
            if size >= BATCH or len(faults.skipped) >= BATCH:
                yield _Read(batch, faults.skipped, start)
                batch, size, faults.skipped = [], 0, []
    except OSError as error:
        message = (
            f"{error.strerror or error} (after document {start[1]}). Mend it and run the same command again: it goes"
        )
        name = error.filename or files[start[0]].uri
        raise OSError(error.errno or 5, f"{message} on from the last finished part", name) from error
    yield _Read(batch, faults.skipped, start)


def _map(stages: Stages, batches: Iterator[_Read], processes: int) -> Iterator[tuple[Batch, _Read]]:
    """The stages on every batch, in order, on as many processes."""
    if processes == 1:
        for read in batches:
            yield stages([document.text for document in read.documents]), read
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that holds TensorFlow's threads may hang
    with concurrent.futures.ProcessPoolExecutor(processes, context, _start, (stages,)) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for read in batches:
                waiting.append((pool.submit(_run, [document.text for document in read.documents]), read))
                if len(waiting) > 2 * processes:
                    future, read = waiting.popleft()
                    yield future.result(), read
            while waiting:
                future, read = waiting.popleft()
                yield future.result(), read
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "a process that cleans text was killed, perhaps for want of memory: run the same command again with "
                "fewer --processes; it goes on from the last finished part"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(stages: Stages) -> None:
    """In a worker: keep the stages, and end with the parent, which may be killed without a word."""
    global _stages
    _stages = stages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _run(texts: list[str]) -> Batch:
    return _stages(texts)


class _Part:
    """Batches until they are a part."""

    def __init__(
        self, folder: Path, files: Sequence[SourceFile], looked_for: str | None, number: int, start: tuple[int, int]
    ):
        self.folder, self.files, self.looked_for = folder, files, looked_for
        self.name, self.next = f"part-{number:05d}", start
        self.size, self.batches, self.places, self.read = 0, [], [], set()
        self.counts, self.examples = Counter({("read", "documents"): 0, ("read", "bytes"): 0}), {}

    def add(self, batch: Batch, read: _Read) -> None:
        self.read.update(range(self.next[0], read.next[0] + 1))
        self.next, members = read.next, read.documents
        rows = [members[row] for row in batch.rows]
        self.places.append(np.array([(document.file, document.line) for document in rows], np.int64).reshape(-1, 2))
        self.batches.append(batch)
        self.size += len(batch.text)
        self.counts.update(batch.counts)  # += would drop what is not above 0: a text may get longer
        if read.bad:
            self.counts["read", "documents"] += len(read.bad)
            self.counts["read", "bad rows"] += len(read.bad)
        named = {
            key: [[f"{self.files[members[row].file].uri}:{members[row].line}", *texts] for row, *texts in found]
            for key, found in batch.examples.items()
        }
        named["read", "bad rows"] = [[reason, "", ""] for reason in read.bad[:EXAMPLES]]
        for key, found in named.items():
            kept = self.examples.setdefault(key, [])
            kept.extend(found[: EXAMPLES - len(kept)])

    def write(self, ended: bool) -> str:
        """Put the part on the disk; the last of its files says that it is whole."""
        arrays = {
            "sizes": [batch.sizes for batch in self.batches],
            "files": [places[:, 0].astype(np.int32) for places in self.places],
            "lines": [places[:, 1] for places in self.places],
        }
        none = {"files": np.zeros(0, np.int32)}
        joined = {
            name: np.concatenate([none.get(name, np.zeros(0, np.int64)), *found]) for name, found in arrays.items()
        }
        joined["keys"] = np.concatenate([np.zeros((0, 2), np.uint64), *(batch.keys for batch in self.batches)])
        info = {
            "counts": plain(self.counts),
            "examples": plain(self.examples),
            "stamps": [[file, *self.files[file][1:]] for file in sorted(self.read)],
            "looked_for": self.looked_for,
            "next": self.next,
            "ended": len(self.files) * ended,  # of how many files this is the last part
        }
        with atomic_file(self.folder / f"{self.name}.text") as file:
            file.writelines(batch.text for batch in self.batches)
        with atomic_file(self.folder / f"{self.name}.bands") as file:
            if self.batches:
                file.write(np.ascontiguousarray(np.concatenate([batch.bands for batch in self.batches]).T).data)
        save_arrays(self.folder / f"{self.name}.npz", info=json.dumps(info), **joined)
        return self.name


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes an npz file whose presence says that a stage is done."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it, and run the same command again") from error
