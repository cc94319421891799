"""SavedModels of BERT, ALBERT and ELECTRA encoders as the TF Model Garden exports them, those on TF-Hub among them.

Only the variables are read, by the names that the checkpoint's object graph has for them; nothing of the SavedModel is
loaded or run (hub.KerasLayer does not work with Keras 3). What no variable tells stands in the graph: how many layers
share ALBERT's weights (one softmax each), and which activation there is.

Reference: https://github.com/tensorflow/models/blob/master/official/nlp/tools/export_tfhub_lib.py
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from aillm_tf.models.config import TransformerConfig
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights.archive import unpack_all
from aillm_tf.weights.arrays import Array, assemble, dense, norm, tokenizer_of
from aillm_tf.weights.family import Family
from aillm_tf.weights.loading import Pretrained
from aillm_tf.weights.resolve import cache_folder

SCHEME = "tfhub:"

_PARTS = ("query", "key", "value")
_KEY = "/.ATTRIBUTES/VARIABLE_VALUE"
_KAGGLE = re.compile(r"[\w-]+/[\w.-]+/tensorFlow[12]/[\w.-]+(/\d+)?")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.xz")
_TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of an answer


def _family(model_type: str, scope: str) -> Family:
    """The table; `scope` is what the names of a layer's variables begin with."""
    ours = "backbone/encoder/layer_{i}"
    return Family(
        model_type=model_type,
        sizes={},
        tensors={
            "backbone/embeddings/token": ("word_embeddings/embeddings",),
            "backbone/embeddings/position": ("position_embedding/embeddings",),
            "backbone/embeddings/segment": ("type_embeddings/embeddings",),
            **norm("backbone/embeddings/norm", "embeddings/layer_norm"),
            **dense("backbone/embeddings/projection", "embedding_projection"),
        },
        layer={
            **dense(f"{ours}/attention/qkv", *(f"{scope}/self_attention/{part}" for part in _PARTS)),
            **dense(f"{ours}/attention/out", f"{scope}/self_attention/attention_output"),
            **norm(f"{ours}/attention_norm", f"{scope}/self_attention_layer_norm"),
            **dense(f"{ours}/ffn/up", f"{scope}/intermediate"),
            **dense(f"{ours}/ffn/down", f"{scope}/output"),
            **norm(f"{ours}/ffn_norm", f"{scope}/output_layer_norm"),
        },
        heads={
            "pooler": dense("pooler", "pooler_transform"),
            "mlm": {
                **dense("mlm/transform", "cls/predictions/transform/dense"),
                **norm("mlm/norm", "cls/predictions/transform/LayerNorm"),
                "mlm/bias": ("cls/predictions/output_bias/bias",),
            },
        },
        transposed=False,
    )


BERT = _family("bert", "transformer/layer_{i}")
ELECTRA = _family("electra", "transformer/layer_{i}")  # BERT with a projection of the embeddings
ALBERT = _family("albert", "transformer")


class _Graph(NamedTuple):
    """What saved_model.pb says that the variables do not."""

    layers: int  # attentions that one call computes
    activation: str
    assets: tuple[str, ...]


def load_pretrained(source: str | os.PathLike) -> Pretrained:
    """Opens a SavedModel of an encoder.

    Args:
        source: its folder; or "tfhub:" and one of a folder or an archive (.tar.gz) of it, a handle on TF-Hub
            ("tensorflow/bert_en_uncased_L-12_H-768_A-12/4"), a URL, a handle on Kaggle, where TF-Hub's models are now
            ("tensorflow/bert/tensorFlow2/en-uncased-l-12-h-768-a-12/4").

    Returns:
        The checkpoint, with nothing read yet but the table of contents.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is damaged, or no encoder of the Model Garden.
        RuntimeError: it could not be downloaded.

    Example:
        >>> load_pretrained("tfhub:tests/golden/tfhub_bert.tar.xz").config.layers  # doctest: +SKIP
        2
    """
    text = os.fspath(source)
    folder = fetch(text) if text.startswith(SCHEME) else Path(text).expanduser()
    arrays = _arrays(folder)
    graph = _graph(folder)
    shapes = {name: array.shape for name, array in arrays.items()}
    shared = "transformer/self_attention/query/kernel" in shapes
    query = f"transformer/{'' if shared else 'layer_0/'}self_attention/query/kernel"
    up = query.replace("self_attention/query", "intermediate")
    tables = ["word_embeddings/embeddings", "position_embedding/embeddings", "type_embeddings/embeddings"]
    missing = [name for name in (*tables, query, up) if name not in shapes]
    if missing:
        found = ", ".join(sorted(shapes)[:4])
        raise ValueError(
            f"{folder}: no BERT-like encoder of the TF Model Garden: has no {', '.join(missing)} (it has {found}, ...)"
        )
    if len(shapes[query]) != 3:
        raise ValueError(f"{folder}: {query} is {shapes[query]}, not (hidden, heads, width)")
    (vocab, embedding), (hidden, heads, width) = shapes[tables[0]], shapes[query]
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"transformer/layer_(\d+)/", name))}
    family = ALBERT if shared else BERT if embedding == hidden else ELECTRA
    config = TransformerConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        layers=graph.layers if shared else max(numbers) + 1,
        heads=heads,
        head_size=None if heads * width == hidden else width,
        ffn_size=shapes[up][1],
        embedding_size=None if embedding == hidden else embedding,
        max_length=shapes[tables[1]][0],
        segments=shapes[tables[2]][0],
        shared_layers=shared,
        activation=graph.activation,
        norm_epsilon=1e-12,
        model_type=family.model_type,
    )
    return assemble(
        folder,
        config,
        family,
        {name: array for name, array in arrays.items() if name != "do_lower_case"},
        tokenizer=_tokenizer(folder, graph.assets, _settings(arrays)),
    )


def _arrays(folder: Path) -> dict[str, Array]:
    """The variables by the names they had in the Model Garden's code."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise FileNotFoundError(f"{folder}: has no variables/variables.index; is it the folder of a SavedModel?")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
        graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except (tf.errors.OpError, ValueError, IndexError, TypeError, DecodeError) as error:
        raise ValueError(f"{prefix}: damaged, or not an object-based checkpoint: {_line(error)}") from error

    def array(name: str, key: str) -> Array:
        def read():
            try:
                return reader.get_tensor(key)
            except (tf.errors.OpError, ValueError, IndexError, TypeError) as error:
                raise ValueError(f"{prefix}: variable {name} cannot be read, fetch it again: {_line(error)}") from error

        return Array(tuple(shapes[key]), types[key].name, read)

    arrays = {}
    for node in graph.nodes:
        for attribute in node.attributes:
            key = attribute.checkpoint_key
            if key in shapes:
                # A variable outside any layer has no name of its own: do_lower_case.
                own = key.removesuffix(_KEY)
                name = own if own == "do_lower_case" else (attribute.full_name or own).removeprefix("bert/")
                arrays[name] = array(name, key)
    return arrays


def _graph(folder: Path) -> _Graph:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    file = folder / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: has no saved_model.pb; is it the folder of a SavedModel?")
    content = file.read_bytes()
    try:
        meta = SavedModel.FromString(content).meta_graphs[0]
    except (DecodeError, IndexError) as error:
        raise ValueError(f"{file}: damaged, fetch it again") from error
    metadata = folder / "keras_metadata.pb"
    content += metadata.read_bytes() if metadata.is_file() else b""
    if re.search(rb'"norm_first": ?true', content):
        raise ValueError(f"{folder}: an encoder with norm_first (norms before attention) is not supported")
    counts = [[node.op for node in function.node_def] for function in meta.graph_def.library.function]
    ops = {op for function in counts for op in function}
    return _Graph(
        layers=max((function.count("Softmax") for function in counts), default=0),
        activation="gelu" if {"Erf", "Erfc"} & ops else "relu" if "Relu" in ops else "gelu_tanh",
        assets=tuple(asset.filename for asset in meta.asset_file_def),
    )


def _settings(arrays: dict[str, Array]) -> dict:
    lowercase = arrays.get("do_lower_case")
    return {} if lowercase is None else {"do_lower_case": bool(lowercase.read())}


def _tokenizer(folder: Path, assets: tuple[str, ...], settings: dict) -> Callable[[], Tokenizer] | None:
    """What makes the tokenizer, where there is a vocabulary among the assets."""
    # an asset's name is the file's own; a path in it would lead elsewhere
    files = {Path(name).suffix: folder / "assets" / Path(name).name for name in assets}
    if ".model" in files:
        return lambda: tokenizer_of({"spiece.model": files[".model"]}, {"tokenizer_class": "AlbertTokenizer"})
    if ".txt" in files:
        return lambda: tokenizer_of({"vocab.txt": files[".txt"]}, {"tokenizer_class": "BertTokenizer", **settings})
    return None


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def fetch(source: str) -> Path:
    """Brings a SavedModel onto the local disk; what is there already is not fetched again.

    Args:
        source: "tfhub:...", see :func:`load_pretrained`.

    Raises:
        FileNotFoundError: it names a path where there is nothing.
        RuntimeError: it could not be downloaded or unpacked; the text says how to get the folder.
    """
    place = source.removeprefix(SCHEME)
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        facts = path.stat()
        return _unpacked(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}", lambda target: path)
    if place.endswith(_ARCHIVES) and not urlsplit(place).scheme:
        raise FileNotFoundError(f"{source!r}: there is no such file")
    if _KAGGLE.fullmatch(place):
        return _from_kaggle(place)
    url = place if urlsplit(place).scheme in {"http", "https"} else f"https://tfhub.dev/{place}"
    if not place.endswith(_ARCHIVES) and "tf-hub-format" not in url:
        url += "?tf-hub-format=compressed"
    return _unpacked(url, lambda target: _download(url, target))


def _unpacked(key: str, archive) -> Path:
    """The archive's content in the cache; `archive(folder)` gives the file, and may put it into that folder."""
    target = cache_folder() / "tfhub" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        unpack_all(archive(Path(partial)), Path(partial) / "model")
        try:
            os.replace(Path(partial) / "model", target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    return target


def _download(url: str, folder: Path) -> Path:
    import requests

    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT) as answer, (folder / "archive").open("wb") as stream:
            answer.raise_for_status()
            if "html" in answer.headers.get("Content-Type", ""):
                raise requests.RequestException("the answer is a web page, not an archive")
            shutil.copyfileobj(answer.raw, stream, 1 << 20)
    except (requests.RequestException, OSError) as error:
        raise RuntimeError(_help(url, error)) from error
    return folder / "archive"


def _from_kaggle(handle: str) -> Path:
    try:
        import kagglehub

        return Path(kagglehub.model_download(handle))
    except Exception as error:  # kagglehub raises what its transport raises, under many names
        raise RuntimeError(_help(handle, error)) from error


def _help(place: str, error: Exception) -> str:
    return (
        f"{place} could not be fetched: {_line(error) or type(error).__name__}\n"
        "TF-Hub's models are on kaggle.com/models now: download the model there (framework TensorFlow 2), and give "
        f"'{SCHEME}path/to/archive.tar.gz', or the folder that has saved_model.pb"
    )
