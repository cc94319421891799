"""KerasHub presets: config.json, model.weights.h5 (or its shards), and the tokenizer's assets.

The file is read as it is, one tensor at a time: no KerasHub model is built, so the weights are in memory once. The
package keras-hub is only asked where a preset by name is kept.

Reference: https://keras.io/keras_hub/
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights.arrays import Array, assemble, below_rows, tokenizer_of, zeros
from aillm_tf.weights.configs import read_config
from aillm_tf.weights.keras_hub_families import ELECTRA_WIDE, FAMILIES, HEADS_FIRST, model_type
from aillm_tf.weights.loading import Pretrained
from aillm_tf.weights.values import read_json

SCHEME = "keras_hub:"

_POSITIONS = ("backbone/embeddings/position", "backbone/decoder_embeddings/position")
_KIND = "a KerasHub preset"
_INDEX = "model.weights.json"
# KerasHub's name of an asset: Hugging Face's
_ASSETS = {
    "vocabulary.txt": "vocab.txt",
    "vocabulary.json": "vocab.json",
    "merges.txt": "merges.txt",
    "vocabulary.spm": "spiece.model",
}
# class of the tokenizer: the class of transformers whose ids are the same; without "Tokenizer"
_TOKENIZERS = ("Bert", "DistilBert", "Electra", "Roberta", "XLMRoberta", "Bart", "GPT2", "Albert", "T5")
_TOKENIZERS = {name: name for name in _TOKENIZERS}
_TOKENIZERS |= {"Llama": "Llama", "Mistral": "Llama", "Gemma": "Gemma", "Gemma3": "Gemma"}


def load_pretrained(source: str | os.PathLike) -> Pretrained:
    """Opens a KerasHub preset.

    Args:
        source: its folder; or "keras_hub:" and one of a folder, the name of a preset ("bert_tiny_en_uncased"),
            "kaggle://keras/bert/keras/bert_tiny_en_uncased", "hf://org/name".

    Returns:
        The checkpoint, with nothing read yet but the table of contents. Heads are not read: task.weights.h5 of a preset
        is for KerasHub's own tasks.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is damaged, or of a backbone that is not supported.
        RuntimeError: it could not be downloaded.

    Example:
        >>> load_pretrained("keras_hub:gpt2_base_en").config.layers  # doctest: +SKIP
        12
    """
    text = os.fspath(source)
    folder = fetch(text) if text.startswith(SCHEME) else Path(text).expanduser()
    file = folder / "config.json"
    described = read_json(file, _KIND)
    kind = described.get("class_name")
    family = FAMILIES.get(kind)
    if family is None:
        raise ValueError(f"{file}: {kind or 'this'} is not a supported backbone of KerasHub: {', '.join(FAMILIES)}")
    values = described.get("config") or {}
    arrays = _arrays(folder)
    # get_config of KerasHub's Llama does not tell; the file has two tables where they are not tied
    tied = "layers/reversible_embedding_0/vars/1" not in arrays
    try:
        config = read_config(values, family)
        config = config.replace(model_type=model_type(family, config), tie_embeddings=tied)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if kind == "T5Backbone":
        arrays = {_t5_name(name, config.layers): array for name, array in arrays.items()}
    if kind == "ElectraBackbone" and config.embedding_size == config.hidden_size:
        family = ELECTRA_WIDE
    if config.position_offset:
        tables = [name for ours in _POSITIONS for name in family.tensors.get(ours, ()) if name in arrays]
        arrays |= {name: below_rows(arrays[name], config.position_offset) for name in tables}
    if config.model_type in ("roberta", "xlm-roberta"):
        arrays["no segments"] = zeros(1, config.hidden_size)
    if config.logit_bias:
        arrays["no bias"] = zeros(config.vocab_size)
    return assemble(folder, config, family, arrays, heads_first=kind in HEADS_FIRST, tokenizer=_tokenizer(folder))


def _arrays(folder: Path) -> dict[str, Array]:
    """Every variable, by its path with one spelling for what versions of Keras spell differently."""
    import h5py

    found: dict[str, Array] = {}
    for file in _files(folder):
        try:
            opened = h5py.File(file, "r")
        except OSError as error:
            raise ValueError(f"{file}: damaged or cut off ({error}); fetch it again") from error

        def visit(path: str, item, file=file) -> None:
            if not isinstance(item, h5py.Dataset) or not re.search(r"(^|/)vars/\d+$", path):
                return
            if item.external or item.is_virtual:
                raise ValueError(f"{file}: refused: {path} lies in another file")
            name = _canonical(path)
            if name.endswith("seed_generator_state") or "/seed_generator" in name:
                return
            is_bfloat16 = item.attrs.get("dtype") == "bfloat16"
            found[name] = Array(item.shape, "bfloat16" if is_bfloat16 else item.dtype.name, lambda: _read(file, item))

        opened.visititems(visit)
    return found


def _read(file: Path, item) -> np.ndarray:
    try:
        value = item[()]
    except OSError as error:
        raise ValueError(f"{file}: {item.name} cannot be read ({error}); fetch the file again") from error
    if item.attrs.get("dtype") != "bfloat16":
        return value
    return value.view(ml_dtypes.bfloat16) if value.dtype.kind == "V" else value.astype(ml_dtypes.bfloat16)


def _files(folder: Path) -> list[Path]:
    single = folder / "model.weights.h5"
    if single.is_file():
        return [single]
    if not (folder / _INDEX).is_file():
        raise FileNotFoundError(f"{folder}: has neither {single.name} nor {_INDEX}")
    listed = read_json(folder / _INDEX, _KIND).get("weight_map") or {}
    shards = sorted({name for value in listed.values() for name in ([value] if isinstance(value, str) else value)})
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ValueError(f"{folder / _INDEX}: refused: the shard {outside[0]!r} is outside the folder")
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing or not shards:
        raise FileNotFoundError(f"{folder}: {_INDEX} names {', '.join(missing) or 'no shard'}, which is not there")
    return [folder / name for name in shards]


def _canonical(path: str) -> str:
    # Keras 3.0 to 3.4 wrote attributes with the underscore they have in the code, later versions by their properties.
    parts = [part.lstrip("_") for part in path.split("/")]
    if parts[0] == "layer_checkpoint_dependencies":
        parts[0] = "layers"
    if parts[0] == "layers" and len(parts) > 1 and not re.search(r"_\d+$", parts[1]):
        parts[1] += "_0"
    return "/".join(parts)


def _t5_name(name: str, layers: int) -> str:
    """T5's decoder has the same class of layer as its encoder, so that the numbers go on."""
    match = re.match(r"layers/t5_transformer_layer_(\d+)/(.*)", name)
    if match is None or int(match[1]) < layers:
        return name
    return f"layers/t5_decoder_layer_{int(match[1]) - layers}/{match[2]}"


def _tokenizer(folder: Path) -> Callable[[], Tokenizer] | None:
    """What makes the tokenizer, where the preset has one of KerasHub's."""
    file = folder / "tokenizer.json"
    described = read_json(file, _KIND) if file.is_file() else {}
    if "class_name" not in described:
        return None

    def make() -> Tokenizer:
        kind = str(described["class_name"])
        theirs = _TOKENIZERS.get(kind.removesuffix("Tokenizer"))
        if theirs is None:
            raise ValueError(
                f"{file}: {kind} is not supported (KerasHub splits text otherwise than the model was trained with, or "
                "no rules are known); put Hugging Face's tokenizer.json of the same model in its place"
            )
        place = folder / "assets" / "tokenizer"
        files = {ours: place / name for name, ours in _ASSETS.items() if (place / name).is_file()}
        if not files:
            raise FileNotFoundError(f"{folder}: has no vocabulary in assets/tokenizer")
        settings = described.get("config") or {}
        kept = {"do_lower_case": settings.get("lowercase"), "strip_accents": settings.get("strip_accents")}
        kept = {key: value for key, value in kept.items() if value is not None}
        if "spiece.model" in files:  # what KerasHub does to the text is all in that file, for ALBERT too
            kept = {"do_lower_case": False, "keep_accents": True}
        return tokenizer_of(files, {"tokenizer_class": f"{theirs}Tokenizer", **kept})

    return make


def fetch(source: str) -> Path:
    """Brings a preset onto the local disk.

    Args:
        source: "keras_hub:...", see :func:`load_pretrained`.

    Raises:
        ValueError: KerasHub has no preset of that name.
        RuntimeError: it could not be downloaded.
    """
    place = source.removeprefix(SCHEME)
    if Path(place).expanduser().is_dir():
        return Path(place).expanduser()
    if "://" not in place:
        place = _handle(place)
    try:
        if place.startswith("hf://"):
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(place.removeprefix("hf://")))
        import kagglehub

        return Path(kagglehub.model_download(place.removeprefix("kaggle://")))
    except Exception as error:  # both libraries raise what their transports raise, under many names
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise RuntimeError(
            f"{source} could not be fetched ({place}): {reason}\nDownload the preset elsewhere, from kaggle.com/models "
            f"or huggingface.co/keras, and give '{SCHEME}path/to/folder', the one with model.weights.h5"
        ) from error


def _handle(name: str) -> str:
    import difflib

    import keras_hub

    presets = keras_hub.models.Backbone.presets
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ", and there is no folder of that name"
        raise ValueError(f"KerasHub has no preset {name!r}{hint}")
    return presets[name]["kaggle_handle"]
