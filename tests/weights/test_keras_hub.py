"""KerasHub presets, saved by KerasHub here, against the outputs of its own backbones and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.utils.keras_utils import gelu_approximate

from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights import keras_hub as reader
from aillm_tf.weights.backbones import backbone_variables, new_backbone, tokenizer_of
from aillm_tf.weights.configs import write_config
from aillm_tf.weights.families import family
from aillm_tf.weights.keras_hub import load_pretrained
from aillm_tf.weights.loading import assign
from aillm_tf.weights.sources import open_source

MODELS = keras_hub.models
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}
TOKENIZERS = Path(__file__).parents[1] / "golden" / "tokenizers"

ENCODER = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
LEARNED = {**ENCODER, "max_sequence_length": 12}
ELECTRA = {("vocab_size" if key == "vocabulary_size" else key): value for key, value in LEARNED.items()}
DECODER = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}
DECODER |= {"num_query_heads": 4, "num_key_value_heads": 2}
ADJUSTED = {"rope_frequency_adjustment_factor": 8.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0}
ADJUSTED |= {"rope_pretraining_sequence_length": 16}
AFTER = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 4}

BACKBONES = {
    "bert": (MODELS.BertBackbone, LEARNED),
    "albert": (MODELS.AlbertBackbone, {**LEARNED, "embedding_dim": 8}),
    "electra": (MODELS.ElectraBackbone, {**ELECTRA, "embedding_dim": 8}),
    "electra_wide": (MODELS.ElectraBackbone, {**ELECTRA, "embedding_dim": 16}),
    "roberta": (MODELS.RobertaBackbone, LEARNED),
    "xlm_roberta": (MODELS.XLMRobertaBackbone, LEARNED),
    "distil_bert": (MODELS.DistilBertBackbone, LEARNED),
    "gpt2": (MODELS.GPT2Backbone, LEARNED),
    "llama": (MODELS.LlamaBackbone, DECODER),
    "llama3": (MODELS.Llama3Backbone, {**DECODER, **ADJUSTED, "tie_word_embeddings": True}),
    "mistral": (MODELS.MistralBackbone, {**DECODER, "sliding_window": 4, "rope_scaling_factor": 2.0}),
    "qwen": (MODELS.QwenBackbone, DECODER),
    "qwen3": (MODELS.Qwen3Backbone, {**DECODER, "head_dim": 8, "sliding_window_size": 4}),
    "gemma": (MODELS.GemmaBackbone, {**DECODER, "head_dim": 4}),
    "gemma2": (
        MODELS.GemmaBackbone,
        {**DECODER, **AFTER, **WINDOW, "head_dim": 8, "attention_logit_soft_cap": 5.0, "final_logit_soft_cap": 3.0},
    ),
    "gemma3": (
        MODELS.Gemma3Backbone,
        {**DECODER, **AFTER, **WINDOW, "num_layers": 6, "head_dim": 8, "image_size": 16, "vision_encoder": None},
    ),
    "bart": (MODELS.BartBackbone, LEARNED),
    "t5": (MODELS.T5Backbone, {**ENCODER, "use_gated_activation": False, "key_value_dim": 4}),
    "t5_v1_1": (
        MODELS.T5Backbone,
        {**ENCODER, "activation": gelu_approximate, "tie_embedding_weights": False},
    ),
}
SEQ2SEQ = ("bart", "t5", "t5_v1_1")


def randomise(model: keras.Model) -> None:
    """Random values everywhere: a fresh model's zeros and ones would hide a bias or a scale put in a wrong place."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype != "float32":
            continue
        noise = random.normal(size=variable.shape)
        ones = np.allclose(np.asarray(variable), 1.0)
        variable.assign(1 + 0.2 * noise if ones else 0.3 * noise)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Makes and saves a backbone when it is first asked for."""
    made = {}

    def preset(name: str):
        if name not in made:
            kind, arguments = BACKBONES[name]
            backbone = kind(**arguments, dtype="float32")
            randomise(backbone)
            folder = tmp_path_factory.mktemp(name)
            backbone.save_to_preset(str(folder))
            made[name] = (backbone, folder)
        return made[name]

    return preset


def batch(length: int = 12) -> tuple[np.ndarray, np.ndarray]:
    lengths = (length, 7, 1)
    valid = (np.arange(length)[None] < np.array(lengths)[:, None]).astype("int32")
    return np.random.default_rng(1).integers(1, 50, valid.shape).astype("int32") * valid, valid


def filled(pretrained):
    backbone = new_backbone(pretrained.config, dtype="float32")
    assign(backbone_variables(backbone), pretrained, allow_new=())
    return backbone


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in SEQ2SEQ])
def test_hidden_states(name, presets):
    theirs, folder = presets(name)
    token_ids, valid = batch()
    feed = {"token_ids": token_ids, "padding_mask": valid}
    features = {"token_ids": token_ids, "valid": valid}
    if "segment_ids" in theirs.input:
        feed["segment_ids"] = features["segment_ids"] = (np.arange(12)[None] % 3 == 0).astype("int32") * valid
    expected = theirs(feed)
    expected = np.asarray(expected["sequence_output"] if isinstance(expected, dict) else expected)
    hidden = np.asarray(filled(load_pretrained(folder))(features))
    np.testing.assert_allclose(hidden[valid == 1], expected[valid == 1], **TOLERANCE)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_hidden_states_of_an_encoder_decoder(name, presets):
    theirs, folder = presets(name)
    (source, valid), (target, target_valid) = batch(), batch(9)
    feed = {"encoder_token_ids": source, "encoder_padding_mask": valid}
    feed |= {"decoder_token_ids": target, "decoder_padding_mask": target_valid}
    expected = np.asarray(theirs(feed)["decoder_sequence_output"])
    features = {"token_ids": source, "valid": valid, "target_ids": target, "target_valid": target_valid}
    hidden = np.asarray(filled(load_pretrained(folder))(features))
    np.testing.assert_allclose(hidden[target_valid == 1], expected[target_valid == 1], **TOLERANCE)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama3", "qwen", "gemma2"])
def test_scores_over_the_vocabulary(name, presets):
    theirs, folder = presets(name)
    hidden = np.random.default_rng(2).normal(size=(3, 16)).astype("float32")
    expected = np.asarray(theirs.token_embedding(hidden, reverse=True))
    np.testing.assert_allclose(np.asarray(filled(load_pretrained(folder)).logits(hidden)), expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_pooler(name, presets):
    theirs, folder = presets(name)
    pretrained = load_pretrained(folder)
    first = np.random.default_rng(2).normal(size=(3, 16)).astype("float32")
    pooled = np.tanh(first @ pretrained.read("pooler/kernel") + pretrained.read("pooler/bias"))
    np.testing.assert_allclose(pooled, np.asarray(theirs.pooled_dense(first)), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("electra")])
def test_every_variable_has_a_place(name, presets):
    assert load_pretrained(presets(name)[1]).unused == ()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_preset_is_of_a_family_that_hugging_face_has(name, presets):
    config = load_pretrained(presets(name)[1]).config
    assert write_config(config, family(config.model_type))["model_type"] == config.model_type


def test_position_scaling_of_llama_is_that_of_the_model(tmp_path):
    """KerasHub 0.32 has the number in its config and computes without it."""
    backbone = MODELS.LlamaBackbone(**DECODER, rope_position_scaling_factor=2.0)
    backbone.save_to_preset(str(tmp_path))
    assert load_pretrained(tmp_path).config.rope_scaling == {"rope_type": "linear", "factor": 2.0}


def test_a_preset_folder_is_recognised(presets):
    assert open_source(presets("gpt2")[1]).config.model_type == "gpt2"


def test_a_preset_in_shards(presets, tmp_path):
    theirs, folder = presets("bert")
    theirs.save_weights(str(tmp_path / "model.weights.json"), max_shard_size=1e-5)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert len(list(tmp_path.glob("*.weights.h5"))) > 1
    one, many = load_pretrained(folder), load_pretrained(tmp_path)
    assert many.shapes == one.shapes
    for name in one.names:
        np.testing.assert_array_equal(many.read(name), one.read(name))


def test_a_preset_in_bfloat16(tmp_path):
    backbone = MODELS.GPT2Backbone(**LEARNED, dtype="bfloat16")
    backbone.save_to_preset(str(tmp_path))
    table = load_pretrained(tmp_path).read("backbone/embeddings/token")
    np.testing.assert_array_equal(table, np.asarray(backbone.token_embedding.embeddings).astype("float32"))


def test_names_of_earlier_versions_of_keras(presets, tmp_path):
    _, folder = presets("bert")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with h5py.File(folder / "model.weights.h5") as new, h5py.File(tmp_path / "model.weights.h5", "w") as old:

        def copy(path, item):
            if isinstance(item, h5py.Dataset):
                path = path.replace("layers/", "_layer_checkpoint_dependencies/")
                old[path.replace("query_dense", "_query_dense").replace("key_dense", "_key_dense")] = item[()]

        new.visititems(copy)
    assert load_pretrained(tmp_path).shapes == load_pretrained(folder).shapes


TEXTS = ["the cat sat", "Hello, World! 12", "a", "déjà vu"]


def ids(tokenizer, texts) -> list[list[int]]:
    return [list(map(int, row)) for row in tokenizer(texts)]


def ours(tokenizer, texts, before: int, after: int) -> list[list[int]]:
    """Ids without the special tokens around a text, which KerasHub's preprocessors add and its tokenizers do not."""
    encoded = tokenizer.encode(texts)
    rows = np.split(encoded.ids, encoded.offsets[1:-1])
    return [row.tolist()[before : len(row) - after] for row in rows]


@pytest.mark.parametrize(
    ("kind", "files", "around"),
    [
        ("Bert", {"vocabulary": "bert_uncased/vocab.txt", "lowercase": True}, (1, 1)),
        ("GPT2", {"vocabulary": "gpt2/vocab.json", "merges": "gpt2/merges.txt"}, (0, 0)),
        ("Roberta", {"vocabulary": "roberta/vocab.json", "merges": "roberta/merges.txt"}, (1, 1)),
        ("T5", {"proto": "t5/spiece.model"}, (0, 1)),
        ("Albert", {"proto": "albert/spiece.model"}, (1, 1)),
    ],
)
def test_a_tokenizer_gives_the_ids_of_kerashub(kind, files, around, presets, tmp_path):
    arguments = {key: str(TOKENIZERS / value) if isinstance(value, str) else value for key, value in files.items()}
    theirs = getattr(MODELS, f"{kind}Tokenizer")(**arguments)
    theirs.save_to_preset(str(tmp_path))
    name = {"GPT2": "gpt2"}.get(kind, kind.lower())
    for file in ("config.json", "model.weights.h5"):
        (tmp_path / file).write_bytes((presets(name)[1] / file).read_bytes())
    tokenizer = tokenizer_of(load_pretrained(tmp_path))
    assert ours(tokenizer, TEXTS, *around) == ids(theirs, TEXTS)


def test_a_task_is_made_of_a_preset(presets, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
    MODELS.BertTokenizer(words, lowercase=True).save_to_preset(str(tmp_path))
    for file in ("config.json", "model.weights.h5"):
        (tmp_path / file).write_bytes((presets("bert")[1] / file).read_bytes())
    labels = ["no", "yes"]
    task = TextClassifier.from_pretrained(f"keras_hub:{tmp_path}", labels=labels, max_length=12, dtype="float32")
    assert task.answer(["w1 W2"])[0]["label"] in labels


def test_a_backbone_alone_has_no_tokenizer(presets):
    assert tokenizer_of(load_pretrained(presets("bert")[1])) is None


def test_a_tokenizer_of_hugging_face_in_a_preset_is_taken(presets, tmp_path):
    for file in ("config.json", "model.weights.h5"):
        (tmp_path / file).write_bytes((presets("llama")[1] / file).read_bytes())
    tokenizer_file = {"class_name": "Llama3Tokenizer", "config": {}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_file))
    with pytest.raises(ValueError, match="Llama3Tokenizer is not supported .* put Hugging Face's tokenizer.json"):
        tokenizer_of(load_pretrained(tmp_path))
    Tokenizer.from_folder(TOKENIZERS / "gpt2").save(tmp_path)
    assert tokenizer_of(load_pretrained(tmp_path)).kind == "bpe"


def test_other_backbones_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"class_name": "ResNetBackbone", "config": {}}))
    with pytest.raises(ValueError, match="ResNetBackbone is not a supported backbone"):
        load_pretrained(tmp_path)


def test_a_config_of_fewer_layers_is_refused(presets, tmp_path):
    folder = presets("bert")[1]
    described = json.loads((folder / "config.json").read_text())
    described["config"]["num_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "model.weights.h5").write_bytes((folder / "model.weights.h5").read_bytes())
    with pytest.raises(ValueError, match="its config leaves no place for layers/transformer_encoder_1/"):
        load_pretrained(tmp_path)


def test_an_albert_without_factorised_embeddings_is_refused(tmp_path):
    """Its projection has no place where both sizes are the same."""
    MODELS.AlbertBackbone(**LEARNED, embedding_dim=16).save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="its config leaves no place for layers/dense_0/vars/0"):
        load_pretrained(tmp_path)


def test_a_cut_off_file_is_an_error(presets, tmp_path):
    folder = presets("bert")[1]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.weights.h5").write_bytes((folder / "model.weights.h5").read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_pretrained(tmp_path)


def test_a_variable_that_lies_in_another_file_is_refused(presets, tmp_path):
    (tmp_path / "config.json").write_text((presets("bert")[1] / "config.json").read_text())
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", (4, 4), "float32", external=[(str(tmp_path / "secret"), 0, 64)])
    with pytest.raises(ValueError, match="refused: layers/dense/vars/0 lies in another file"):
        load_pretrained(tmp_path)


def test_a_shard_outside_the_folder_is_refused(presets, tmp_path):
    (tmp_path / "config.json").write_text((presets("bert")[1] / "config.json").read_text())
    index = {"weight_map": {"/layers/dense/vars": ["../elsewhere.weights.h5"]}}
    (tmp_path / "model.weights.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="refused: the shard '../elsewhere.weights.h5'"):
        load_pretrained(tmp_path)


def test_a_preset_by_name_is_fetched_by_its_handle(presets, monkeypatch):
    import kagglehub

    asked = []
    monkeypatch.setattr(kagglehub, "model_download", lambda handle: asked.append(handle) or str(presets("bert")[1]))
    assert load_pretrained("keras_hub:bert_tiny_en_uncased").config.layers == 2
    assert asked[0].startswith("keras/bert/keras/bert_tiny_en_uncased")


def test_an_unknown_preset_is_an_error_with_the_nearest_names():
    with pytest.raises(ValueError, match="did you mean .*bert_tiny_en_uncased"):
        reader.fetch("keras_hub:bert_tiny_en_uncase")


def test_without_a_network_the_error_says_how_to_get_the_folder(monkeypatch):
    import kagglehub

    def refuse(handle):
        raise ConnectionError("no route")

    monkeypatch.setattr(kagglehub, "model_download", refuse)
    with pytest.raises(RuntimeError, match=r"no route\nDownload the preset elsewhere"):
        reader.fetch("keras_hub:bert_tiny_en_uncased")
