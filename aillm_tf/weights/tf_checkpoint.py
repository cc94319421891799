"""Google's own checkpoints of BERT, ALBERT and ELECTRA, as their TensorFlow 1 code wrote them.

A folder has one checkpoint (``*.index``, ``*.data-*``), the sizes in bert_config.json or albert_config.json, and
vocab.txt or a SentencePiece ``*.model``. ELECTRA's folders hold two models, the discriminator and the generator, and no
sizes: these are read off the tensors; heads are 64 wide unless electra_config.json has num_attention_heads.

Where that code says "gelu" it means the tanh approximation in BERT and ALBERT, and the exact one in ELECTRA. Hugging
Face's conversions of BERT have the exact one: their hidden states differ from Google's in the third decimal.

References: https://github.com/google-research/bert, https://github.com/google-research/albert,
https://github.com/google-research/electra (modeling.py in each)
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights import bert
from aillm_tf.weights.arrays import Array, assemble, dense, norm, tokenizer_of
from aillm_tf.weights.configs import read_config
from aillm_tf.weights.family import Family, Table
from aillm_tf.weights.loading import Pretrained

SCHEME = "tf1:"
GENERATOR = "#generator"

logger = logging.getLogger("aillm_tf")

_SLOT = re.compile(r".*/(adam_[mv]|Adam(_1)?|LAMB(_1)?|accumulated_step)|global_step|accum_.*|.*_power")
_HEAD_WIDTH = 64  # of every ELECTRA that Google has published


def _embeddings(scope: str) -> Table:
    return {
        "backbone/embeddings/token": (f"{scope}/word_embeddings",),
        "backbone/embeddings/position": (f"{scope}/position_embeddings",),
        "backbone/embeddings/segment": (f"{scope}/token_type_embeddings",),
        **norm("backbone/embeddings/norm", f"{scope}/LayerNorm"),
    }


def _layer(scope: str) -> Table:
    ours = "backbone/encoder/layer_{i}"
    return {
        **dense(f"{ours}/attention/qkv", *(f"{scope}/attention/self/{part}" for part in ("query", "key", "value"))),
        **dense(f"{ours}/attention/out", f"{scope}/attention/output/dense"),
        **norm(f"{ours}/attention_norm", f"{scope}/attention/output/LayerNorm"),
        **dense(f"{ours}/ffn/up", f"{scope}/intermediate/dense"),
        **dense(f"{ours}/ffn/down", f"{scope}/output/dense"),
        **norm(f"{ours}/ffn_norm", f"{scope}/output/LayerNorm"),
    }


def _predictions(transform: str, normed: str, bias: str) -> Table:
    return {**dense("mlm/transform", transform), **norm("mlm/norm", normed), "mlm/bias": (bias,)}


_HEADS = {
    "pooler": dense("pooler", "bert/pooler/dense"),
    # run_classifier.py and run_squad.py
    "classifier": {"classifier/kernel": ("output_weights",), "classifier/bias": ("output_bias",)},
    "spans": {"spans/kernel": ("cls/squad/output_weights",), "spans/bias": ("cls/squad/output_bias",)},
    "mlm": _predictions(
        "cls/predictions/transform/dense", "cls/predictions/transform/LayerNorm", "cls/predictions/output_bias"
    ),
}
_TURNED = ("classifier/kernel", "spans/kernel")
_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}
# The code has no key for it: tf.contrib.layers.layer_norm in float32.
_FIXED = {"norm_epsilon": 1e-12}
_SIZES = {ours: key for ours, key in bert.FAMILY.sizes.items() if ours != "norm_epsilon"}

BERT = Family(
    model_type="bert",
    title="BERT",
    sizes=_SIZES,
    usual=bert.FAMILY.usual,
    fixed=_FIXED,
    activations=_ACTIVATIONS,
    tensors=_embeddings("bert/embeddings"),
    layer=_layer("bert/encoder/layer_{i}"),
    heads=_HEADS,
    turned=_TURNED,
    transposed=False,
)

_GROUP = "bert/encoder/transformer/group_0/inner_group_0"
ALBERT = Family(
    model_type="albert",
    title="ALBERT",
    sizes={**_SIZES, "embedding_size": "embedding_size"},
    usual={**bert.FAMILY.usual, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    fixed={**_FIXED, "shared_layers": True},
    only={"num_hidden_groups": 1, "inner_group_num": 1},
    activations=_ACTIVATIONS,
    tensors={
        **_embeddings("bert/embeddings"),
        **dense("backbone/embeddings/projection", "bert/encoder/embedding_hidden_mapping_in"),
    },
    layer={
        **dense(
            "backbone/encoder/layer_{i}/attention/qkv",
            *(f"{_GROUP}/attention_1/self/{part}" for part in ("query", "key", "value")),
        ),
        **dense("backbone/encoder/layer_{i}/attention/out", f"{_GROUP}/attention_1/output/dense"),
        **norm("backbone/encoder/layer_{i}/attention_norm", f"{_GROUP}/LayerNorm"),
        **dense("backbone/encoder/layer_{i}/ffn/up", f"{_GROUP}/ffn_1/intermediate/dense"),
        **dense("backbone/encoder/layer_{i}/ffn/down", f"{_GROUP}/ffn_1/intermediate/output/dense"),
        **norm("backbone/encoder/layer_{i}/ffn_norm", f"{_GROUP}/LayerNorm_1"),
    },
    heads=_HEADS,
    turned=_TURNED,
    transposed=False,
)


def _electra(scope: str, embeddings: str, head: str, table: Table) -> Family:
    return Family(
        model_type="electra",
        title="ELECTRA",
        sizes={**_SIZES, "embedding_size": "embedding_size"},
        usual=bert.FAMILY.usual,
        fixed=_FIXED,
        activations={"gelu": "gelu", "relu": "relu"},
        tensors={
            **_embeddings(f"{embeddings}/embeddings"),
            **dense("backbone/embeddings/projection", f"{scope}/embeddings_project"),
        },
        layer=_layer(f"{scope}/encoder/layer_{{i}}"),
        heads={head: table},
        transposed=False,
    )


_GENERATOR_HEAD = _predictions(
    "generator_predictions/dense", "generator_predictions/LayerNorm", "generator_predictions/output_bias"
)
_DISCRIMINATOR_HEAD = {
    **dense("discriminator/transform", "discriminator_predictions/dense"),
    **dense("discriminator/out", "discriminator_predictions/dense_1"),
}


def load_pretrained(source: str | os.PathLike) -> Pretrained:
    """Opens a TF1 checkpoint of BERT, ALBERT or ELECTRA.

    Args:
        source: its folder; or "tf1:" and the folder or, where that has several checkpoints, the beginning of the
            names of one's files ("tf1:cased_L-12/bert_model.ckpt"). "tf1:...#generator" is the generator of an
            ELECTRA, otherwise the discriminator is opened.

    Returns:
        The checkpoint, with nothing read yet but the table of contents. What the optimizer kept is counted in the log
        and left out.

    Raises:
        FileNotFoundError: there is no checkpoint, or no file with its sizes.
        ValueError: it is of another kind, or damaged.

    Example:
        >>> load_pretrained("tests/golden/tf1_bert").config.layers
        2
    """
    text = os.fspath(source).removeprefix(SCHEME)
    generator = text.endswith(GENERATOR)
    prefix = _prefix(Path(text.removesuffix(GENERATOR)).expanduser())
    folder = prefix.parent
    arrays = _arrays(prefix)
    slots = [name for name in arrays if _SLOT.fullmatch(name)]
    if slots:
        logger.info("%s: left out %d tensors of the optimizer", prefix.name, len(slots))
    arrays = {name: array for name, array in arrays.items() if name not in slots}

    scopes = {name.partition("/")[0] for name in arrays}
    if "electra" in scopes:
        family, values = _electra_of(folder, arrays, generator)
        arrays = _without_twin(arrays, generator)
    elif generator:
        raise ValueError(f"{prefix}: has no generator; only checkpoints of ELECTRA have one")
    elif any(name.startswith(_GROUP) for name in arrays):
        family, values = ALBERT, _read_json(folder, "albert_config.json", "bert_config.json")
    elif "bert" in scopes:
        family, values = BERT, _read_json(folder, "bert_config.json")
    else:
        raise ValueError(
            f"{prefix}: its tensors begin with {', '.join(sorted(scopes)[:5])}; only BERT's, ALBERT's and ELECTRA's "
            "TF1 checkpoints are read (bert/, electra/)"
        )
    try:
        config = read_config(values, family).replace(model_type=family.model_type)
    except ValueError as error:
        raise ValueError(f"{folder}: its *_config.json {error}") from error
    if any(name.startswith("bert/encoder/transformer/group_1/") for name in arrays):
        raise ValueError(f"{prefix}: an ALBERT of several groups of layers is not supported")
    return assemble(folder, config, family, arrays, tokenizer=_vocabulary(folder, family))


def _prefix(path: Path) -> Path:
    """What the names of the files of the one checkpoint at or in ``path`` begin with."""
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) > 1:
            some = ", ".join(file.stem for file in found[:5])
            raise ValueError(f"{path}: has several checkpoints ({some}): write {SCHEME}{path / found[-1].stem}")
        if not found:
            raise FileNotFoundError(f"{path}: has no checkpoint (*.index)")
        path = found[0].with_suffix("")
    if not path.with_name(path.name + ".index").is_file():
        raise FileNotFoundError(f"{path}: there is no {path.name}.index")
    return path


def _arrays(prefix: Path) -> dict[str, Array]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        types = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{prefix}: not a checkpoint, or damaged: {_first_line(error)}") from error

    def array(name: str) -> Array:
        def read():
            try:
                return reader.get_tensor(name)
            except (tf.errors.OpError, ValueError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{prefix}: tensor {name} cannot be read ({_first_line(error)}): a *.data-* file is missing or cut "
                    "off, fetch it again"
                ) from error

        return Array(tuple(shapes[name]), types[name].name, read)

    return {name: array(name) for name in shapes}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _electra_of(folder: Path, arrays: dict[str, Array], generator: bool) -> tuple[Family, dict]:
    """The table of the discriminator or the generator, and its sizes, read off the tensors."""
    scope, head = ("generator", "mlm") if generator else ("electra", "discriminator")
    # A generator shares the discriminator's embeddings unless it was trained otherwise.
    embeddings = scope if f"{scope}/embeddings/word_embeddings" in arrays else "electra"
    up = f"{scope}/encoder/layer_0/intermediate/dense/kernel"
    tables = [f"{embeddings}/embeddings/{kind}_embeddings" for kind in ("word", "position", "token_type")]
    missing = [name for name in (up, *tables) if name not in arrays]
    if missing:
        raise ValueError(f"{folder}: has no {scope} ({', '.join(missing)} is not there)")
    (hidden, ffn), (vocab, embedding) = arrays[up].shape, arrays[tables[0]].shape
    layers = {name.split("/")[2] for name in arrays if name.startswith(f"{scope}/encoder/layer_")}
    given = ("electra_config.json", "bert_config.json", "config.json")
    said = next((_read_json(folder, name) for name in given if (folder / name).is_file()), {})
    width = _HEAD_WIDTH
    if "num_attention_heads" in said and f"electra/{up.partition('/')[2]}" in arrays:
        width = arrays[f"electra/{up.partition('/')[2]}"].shape[0] // said["num_attention_heads"]
    if hidden % width and hidden > width:
        raise ValueError(
            f"{folder}: hidden size {hidden} is not a multiple of {_HEAD_WIDTH}, the width of a head in Google's "
            'ELECTRA: write {"num_attention_heads": ...} into electra_config.json there'
        )
    values = {
        "vocab_size": vocab,
        "embedding_size": embedding,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // width),
        "max_position_embeddings": arrays[tables[1]].shape[0],
        "type_vocab_size": arrays[tables[2]].shape[0],
    }
    kept = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
    values |= {key: said[key] for key in kept if key in said}
    return _electra(scope, embeddings, head, _GENERATOR_HEAD if generator else _DISCRIMINATOR_HEAD), values


def _without_twin(arrays: dict[str, Array], generator: bool) -> dict[str, Array]:
    """Leaves out the other of an ELECTRA's two models: it is not unused, it is another source."""
    other = ("electra/encoder/", "electra/embeddings_project/", "discriminator_predictions/")
    other = other if generator else ("generator/", "generator_predictions/")
    return {name: array for name, array in arrays.items() if not name.startswith(other)}


def _read_json(folder: Path, *files: str) -> dict:
    for name in files:
        file = folder / name
        if not file.is_file():
            continue
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file}: not a table of settings")
        return values
    raise FileNotFoundError(f"{folder}: has no {files[0]}, which states the sizes of the model; copy it there")


def _vocabulary(folder: Path, family: Family) -> Callable[[], Tokenizer] | None:
    """What makes the tokenizer, where the folder has a file of SentencePiece, which does not say whose it is."""
    models = sorted(folder.glob("*.model"))
    if not models or family is not ALBERT:
        return None
    return lambda: tokenizer_of({"spiece.model": models[0]}, {"tokenizer_class": "AlbertTokenizer"})
