"""Makes the golden files of TensorFlow's own formats with Google's code: ``python tests/golden/make_tf.py``.

Needs tf-models-official (2.20 was used), which brings TensorFlow, Keras 2 as tf-keras, and its own dependencies:
install it into an environment of its own. ``pip install --no-deps tf-models-official`` and then tensorflow,
tensorflow-text, tf-keras, tensorflow-hub, tensorflow-model-optimization, gin-config, tf-slim, sentencepiece, sacrebleu,
pandas, psutil, matplotlib and tensorflow-datasets is enough.

Writes beside itself
    tf1_bert/, tf1_albert/, tf1_electra/   tiny random checkpoints with the names that google-research's code gives its
                                           variables, some slots of its optimizer among them
    tfhub_bert.tar.xz, tfhub_albert.tar.xz SavedModels, whole, as export_tfhub_lib.py writes them for TF-Hub
    tf.npz                                 inputs (padded batches, segment ids) and outputs

The checkpoints' outputs are those of the Model Garden's encoders, into which its own converters read them
(tf1_bert_checkpoint_converter_lib.py, tf2_albert_encoder_checkpoint_converter.py). It has none for ELECTRA: there
the names are brought to BERT's first, and the activation is the exact gelu of ELECTRA's code.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras
from official.legacy.albert import configs as albert_configs
from official.legacy.bert import configs as bert_configs
from official.modeling import tf_utils
from official.nlp.modeling import models, networks
from official.nlp.tools import export_tfhub_lib
from official.nlp.tools import tf1_bert_checkpoint_converter_lib as converter
from official.nlp.tools import tf2_albert_encoder_checkpoint_converter as albert_converter

HERE = Path(__file__).parent
SPIECE = HERE / "tokenizers" / "albert" / "spiece.model"  # make_tokenizers.py writes it
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *"0123456789.,!?'-"]
WORDS += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
EMBEDDING = 8  # ALBERT's and ELECTRA's
RANDOM = np.random.default_rng(0)


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values everywhere: zeros and ones would hide a bias or a scale put in a wrong place."""
    values = RANDOM.normal(size=shape).astype("float32")
    return 1 + 0.2 * values if name.endswith("gamma") else 0.3 * values


def dense(name: str, inputs: int, outputs: int) -> dict:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def norm(name: str, size: int) -> dict:
    return {f"{name}/gamma": (size,), f"{name}/beta": (size,)}


def embeddings(scope: str, size: int) -> dict:
    tables = {"word": SIZES["vocab_size"], "position": SIZES["max_position_embeddings"], "token_type": 2}
    return {
        **{f"{scope}/embeddings/{kind}_embeddings": (rows, size) for kind, rows in tables.items()},
        **norm(f"{scope}/embeddings/LayerNorm", size),
    }


def layers(scope: str, hidden: int, ffn: int) -> dict:
    shapes = {}
    for i in range(SIZES["num_hidden_layers"]):
        layer = f"{scope}/encoder/layer_{i}"
        for part in ("query", "key", "value"):
            shapes |= dense(f"{layer}/attention/self/{part}", hidden, hidden)
        shapes |= dense(f"{layer}/attention/output/dense", hidden, hidden)
        shapes |= norm(f"{layer}/attention/output/LayerNorm", hidden)
        shapes |= dense(f"{layer}/intermediate/dense", hidden, ffn) | dense(f"{layer}/output/dense", ffn, hidden)
        shapes |= norm(f"{layer}/output/LayerNorm", hidden)
    return shapes


def heads(hidden: int, embedding: int) -> dict:
    return {
        **dense("bert/pooler/dense", hidden, hidden),
        **dense("cls/predictions/transform/dense", hidden, embedding),
        **norm("cls/predictions/transform/LayerNorm", embedding),
        "cls/predictions/output_bias": (SIZES["vocab_size"],),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }


def albert_layer(hidden: int, ffn: int) -> dict:
    group = "bert/encoder/transformer/group_0/inner_group_0"
    shapes = {}
    for part in ("query", "key", "value"):
        shapes |= dense(f"{group}/attention_1/self/{part}", hidden, hidden)
    shapes |= dense(f"{group}/attention_1/output/dense", hidden, hidden) | norm(f"{group}/LayerNorm", hidden)
    shapes |= dense(f"{group}/ffn_1/intermediate/dense", hidden, ffn)
    shapes |= dense(f"{group}/ffn_1/intermediate/output/dense", ffn, hidden) | norm(f"{group}/LayerNorm_1", hidden)
    return dense("bert/encoder/embedding_hidden_mapping_in", EMBEDDING, hidden) | shapes


def checkpoint_names() -> dict[str, dict]:
    hidden, ffn = SIZES["hidden_size"], SIZES["intermediate_size"]
    electra = embeddings("electra", EMBEDDING) | dense("electra/embeddings_project", EMBEDDING, hidden)
    electra |= layers("electra", hidden, ffn)
    electra |= dense("discriminator_predictions/dense", hidden, hidden)
    electra |= dense("discriminator_predictions/dense_1", hidden, 1)
    # The generator's hidden size is the embeddings', so that it has no projection.
    electra |= layers("generator", EMBEDDING, 4 * EMBEDDING)
    electra |= dense("generator_predictions/dense", EMBEDDING, EMBEDDING)
    electra |= norm("generator_predictions/LayerNorm", EMBEDDING)
    electra |= {"generator_predictions/output_bias": (SIZES["vocab_size"],)}
    return {
        "bert": embeddings("bert", hidden) | layers("bert", hidden, ffn) | heads(hidden, hidden),
        "albert": embeddings("bert", EMBEDDING) | albert_layer(hidden, ffn) | heads(hidden, EMBEDDING),
        "electra": electra,
    }


def write_checkpoint(prefix: Path, shapes: dict, *, renamed=lambda name: name) -> dict[str, np.ndarray]:
    values = {name: noise(name, shape) for name, shape in shapes.items()}
    slots = [name for name in values if name.endswith("LayerNorm/beta")][:2]
    stored = {renamed(name): value for name, value in values.items()}
    stored |= {f"{name}/adam_{slot}": np.zeros_like(values[name]) for name in slots for slot in "mv"}
    write_tensors(prefix, stored | {"global_step": np.int64(1000)})
    return values


def write_tensors(prefix: Path, stored: dict[str, np.ndarray]) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.Variable(value, use_resource=False) for name, value in stored.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)


def inputs() -> dict[str, np.ndarray]:
    lengths = [18, 7, 1, 13]
    token_ids = np.zeros((len(lengths), max(lengths)), np.int32)
    segment_ids = np.zeros_like(token_ids)
    for row, length in enumerate(lengths):
        token_ids[row, :length] = RANDOM.integers(5, len(WORDS), length)
        segment_ids[row, length // 2 : length] = 1
    return {"token_ids": token_ids, "segment_ids": segment_ids}


def feed(batch: dict) -> dict:
    token_ids = batch["token_ids"]
    mask = (token_ids != 0).astype(np.int32)
    return {"input_word_ids": token_ids, "input_mask": mask, "input_type_ids": batch["segment_ids"]}


def outputs(pretrainer, batch: dict) -> dict[str, np.ndarray]:
    """Only real positions count: what stands at padding is nobody's contract."""
    real = batch["token_ids"] != 0
    positions = np.broadcast_to(np.arange(real.shape[1], dtype=np.int32), real.shape)
    found = pretrainer(feed(batch) | {"masked_lm_positions": positions})
    return {
        "hidden": found["sequence_output"].numpy()[real],
        "pooled": found["pooled_output"].numpy(),
        "mlm": found["mlm_logits"].numpy()[real],
    }


def converted(model, source: Path, heads: int, replacements) -> None:
    """Reads a checkpoint of TF1 into a model of the Model Garden."""
    with tempfile.TemporaryDirectory() as folder:
        converter.convert(
            str(source), folder + "/v1", heads, replacements, converter.BERT_V2_PERMUTATIONS, ["adam", "global_step"]
        )
        model.load_weights(folder + "/v1").assert_existing_objects_matched().expect_partial()


def bert_pretrainer():
    encoder = export_tfhub_lib.get_bert_encoder(bert_configs.BertConfig.from_dict(SIZES | {"embedding_size": None}))
    pretrainer = models.BertPretrainerV2(encoder, mlm_activation=tf_utils.get_activation("gelu"))
    pretrainer(pretrainer.inputs)  # makes its variables
    return pretrainer


def electra_encoder(hidden: int, ffn: int, heads: int):
    return networks.BertEncoder(
        vocab_size=SIZES["vocab_size"],
        hidden_size=hidden,
        num_layers=SIZES["num_hidden_layers"],
        num_attention_heads=heads,
        intermediate_size=ffn,
        activation=exact_gelu,
        max_sequence_length=SIZES["max_position_embeddings"],
        type_vocab_size=2,
        embedding_width=EMBEDDING,
        dict_outputs=True,
    )


def applied(values: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ values[f"{name}/kernel"] + values[f"{name}/bias"]


def exact_gelu(x):
    return tf_keras.activations.gelu(x, approximate=False)


def electra(folder: Path, values: dict, batch: dict) -> dict[str, np.ndarray]:
    """Outputs of both models: the encoders are the Model Garden's, the heads are written out."""
    real, arrays = batch["token_ids"] != 0, {}
    (folder / "electra_config.json").write_text(json.dumps({"num_attention_heads": 2}) + "\n")
    sizes = {
        "electra": (SIZES["hidden_size"], SIZES["intermediate_size"], 2),
        "generator": (EMBEDDING, 4 * EMBEDDING, 1),
    }
    for scope, (hidden, ffn, heads) in sizes.items():
        theirs = {f"{scope}/encoder/": "bert/encoder/", "electra/embeddings/": "bert/embeddings/"}
        theirs |= {"electra/embeddings_project/": "bert/embedding_projection/"} if scope == "electra" else {}
        taken = {
            new + name.removeprefix(old): value
            for name, value in values.items()
            for old, new in theirs.items()
            if name.startswith(old)
        }
        # ELECTRA has no pooler; the encoder computes one that nobody reads.
        taken |= {name: noise(name, shape) for name, shape in dense("bert/pooler/dense", hidden, hidden).items()}
        encoder = electra_encoder(hidden, ffn, heads)
        with tempfile.TemporaryDirectory() as temporary:
            write_tensors(Path(temporary) / "bert", taken)
            converted(encoder, Path(temporary) / "bert", heads, converter.BERT_V2_NAME_REPLACEMENTS)
        x = encoder(feed(batch))["sequence_output"].numpy()[real]
        arrays[f"{scope}_hidden"] = x
        if scope == "electra":
            x = exact_gelu(applied(values, "discriminator_predictions/dense", x)).numpy()
            arrays["electra_logits"] = applied(values, "discriminator_predictions/dense_1", x)[:, 0]
        else:
            x = exact_gelu(applied(values, "generator_predictions/dense", x)).numpy()
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
            x = x * values["generator_predictions/LayerNorm/gamma"] + values["generator_predictions/LayerNorm/beta"]
            table = values["electra/embeddings/word_embeddings"]
            arrays["generator_mlm"] = x @ table.T + values["generator_predictions/output_bias"]
    return arrays


def randomise(model) -> None:
    for variable in model.variables:
        if variable.dtype == tf.float32:
            variable.assign(noise(variable.name.partition(":")[0], tuple(variable.shape)))


def tfhub(kind: str, batch: dict) -> dict[str, np.ndarray]:
    """A SavedModel with its masked-LM head, through the exporter that wrote those on TF-Hub."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments = {"with_mlm": True, "model_checkpoint_path": None}
        if kind == "bert":
            (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
            arguments |= {"vocab_file": str(folder / "vocab.txt"), "do_lower_case": True}
            arguments |= {"bert_config": bert_configs.BertConfig(**SIZES)}
        else:
            shutil.copy(SPIECE, folder / "30k-clean.model")
            encoder = export_tfhub_lib.encoders.EncoderConfig(
                type="albert",
                albert=export_tfhub_lib.encoders.AlbertEncoderConfig(
                    vocab_size=len(WORDS),
                    embedding_width=EMBEDDING,
                    hidden_size=16,
                    num_layers=2,
                    num_attention_heads=2,
                    intermediate_size=24,
                    max_position_embeddings=20,
                ),
            )
            arguments |= {"sp_model_file": str(folder / "30k-clean.model"), "encoder_config": encoder}
        chosen = {key: arguments[key] for key in ("bert_config", "encoder_config") if key in arguments}
        _, pretrainer = export_tfhub_lib._create_model(**chosen, with_mlm=True)
        randomise(pretrainer)
        checkpoint = tf.train.Checkpoint(**pretrainer.checkpoint_items)
        arguments["model_checkpoint_path"] = checkpoint.save(str(folder / "checkpoint"))
        export_tfhub_lib.export_model(str(folder / "model"), **arguments)
        with tarfile.open(HERE / f"tfhub_{kind}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(folder / "model", ".")
        return outputs(pretrainer, batch)


def main() -> None:
    batch = inputs()
    arrays = dict(batch)
    for kind, shapes in checkpoint_names().items():
        folder = HERE / f"tf1_{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if kind == "albert":
            shutil.copy(SPIECE, folder / "30k-clean.model")
        else:
            (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        prefix = folder / {"bert": "bert_model.ckpt", "albert": "model.ckpt-best", "electra": "electra_tiny"}[kind]
        values = write_checkpoint(prefix, shapes)
        if kind == "electra":
            arrays |= electra(folder, values, batch)
            continue
        shared = {"embedding_size": EMBEDDING, "num_hidden_groups": 1, "inner_group_num": 1}
        config = SIZES | (shared if kind == "albert" else {})
        (folder / f"{kind}_config.json").write_text(json.dumps(config, indent=2) + "\n")
        if kind == "bert":
            pretrainer = bert_pretrainer()
            replacements = converter.BERT_V2_NAME_REPLACEMENTS
        else:
            pretrainer = albert_converter._create_pretrainer_model(albert_configs.AlbertConfig.from_dict(config))
            replacements = albert_converter.ALBERT_NAME_REPLACEMENTS
        converted(pretrainer, prefix, 2, replacements)
        arrays |= {f"{kind}_{name}": value for name, value in outputs(pretrainer, batch).items()}
    for kind in ("bert", "albert"):
        arrays |= {f"tfhub_{kind}_{name}": value for name, value in tfhub(kind, batch).items()}
    np.savez_compressed(HERE / "tf.npz", **arrays)


if __name__ == "__main__":
    main()
