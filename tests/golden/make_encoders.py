"""Makes the golden numbers of BERT's kin with transformers and torch: ``python tests/golden/make_encoders.py``.

Writes beside itself, for distilbert, roberta, xlm_roberta, albert and electra,
    FAMILY/HEAD/        a tiny random model with this head, as transformers saves it; with a tokenizer where a task of
                        ours reads strings (classifier, masked_lm)
    FAMILY/golden.npz   token_ids (a padded batch), segment_ids where the family has segments, and of every head:
                        HEAD_hidden and HEAD_logits (of a bare model what its pooler gives) without segment ids, and
                        HEAD_segments_hidden and HEAD_segments_logits with them; probabilities (SENTENCES, classes) that
                        the classifier gives through its own tokenizer
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
HEADS = {
    "model": "Model",
    "classifier": "ForSequenceClassification",
    "masked_lm": "ForMaskedLM",
    "tagger": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "discriminator": "ForPreTraining",
}
# whose head has gelu whatever the layers have
OTHER_LAYERS = {("roberta", "masked_lm"), ("electra", "masked_lm")}
USUAL_HEADS = ("model", "classifier", "masked_lm", "tagger", "spans")
LABELS = ["negative", "neutral", "positive"]
SENTENCES = [
    "a stirring, funny film",
    "The plot is thin, but the actors save it.",
    "I would not watch this again.",
    "refund my order #12345 now!!!",
    "A long sentence, with several clauses, commas and numbers like 42, so that rows differ in length.",
]
SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "initializer_range": 0.05,
}


def wordpiece(kind: type) -> transformers.PreTrainedTokenizerBase:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    words += list("0123456789.,!?'-:;()")
    return kind(vocab={word: i for i, word in enumerate(words)})


def byte_level(kind: type) -> transformers.PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    vocabulary = backend.get_vocab()
    return kind(vocab={**vocabulary, "<mask>": len(vocabulary)}, merges=merges)


def unigram(kind: type, first: list[str], last: list[str]) -> transformers.PreTrainedTokenizerBase:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=70, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator([sentence.lower() for sentence in SENTENCES], trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"][1:]
    pieces = [(piece, round(score, 4)) for piece, score in pieces]
    return kind(vocab=[(token, 0.0) for token in first] + pieces + [(token, 0.0) for token in last])


def tokenizer_of(family: str) -> transformers.PreTrainedTokenizerBase:
    if family == "distilbert":
        return wordpiece(transformers.DistilBertTokenizer)
    if family == "electra":
        return wordpiece(transformers.ElectraTokenizer)
    if family == "roberta":
        return byte_level(transformers.RobertaTokenizer)
    if family == "xlm_roberta":
        return unigram(transformers.XLMRobertaTokenizer, ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
    return unigram(transformers.AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], [])


_BERT = {"intermediate_size": 24, "max_position_embeddings": 24, "pad_token_id": 0}
_ROBERTA = {
    "intermediate_size": 24,
    "max_position_embeddings": 26,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
# family: prefix of its classes, its config beyond SIZES, its heads
FAMILIES = {
    "distilbert": ("DistilBert", {"hidden_dim": 24, "max_position_embeddings": 24, "pad_token_id": 0}, USUAL_HEADS),
    "roberta": ("Roberta", _ROBERTA, USUAL_HEADS),
    "xlm_roberta": ("XLMRoberta", _ROBERTA, ("classifier", "masked_lm")),
    "albert": ("Albert", {**_BERT, "embedding_size": 8}, USUAL_HEADS),
    "electra": ("Electra", {**_BERT, "embedding_size": 8}, (*USUAL_HEADS, "discriminator")),
}


def randomise(model: torch.nn.Module) -> None:
    """Random values everywhere: a fresh model's zeros and ones would hide a bias or a scale put in a wrong place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            scale_of_norm = name.lower().endswith("norm.weight")
            tensor.copy_(1 + 0.2 * noise if scale_of_norm else 0.3 * noise)


def batch(pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = [15, 5, 1, 7]  # the longest unlike hidden_size: outputs are told by their shapes
    token_ids = np.full((len(lengths), max(lengths)), pad_id, np.int32)
    segment_ids = np.zeros_like(token_ids)
    for row, length in enumerate(lengths):
        token_ids[row, :length] = random.integers(5, 60, length)
        segment_ids[row, length // 2 : length] = 1
    return token_ids, segment_ids


def outputs(model: torch.nn.Module, feed: dict, real: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        answer = model(**feed, output_hidden_states=True)
    if "start_logits" in answer:
        logits = torch.stack([answer.start_logits, answer.end_logits], -1)
    elif "logits" in answer:
        logits = answer.logits
    else:
        logits = answer.get("pooler_output")
    # what stands at padding is nobody's contract
    found = {"hidden": answer.hidden_states[-1].numpy()[real]}
    if logits is not None:
        found["logits"] = logits.numpy()[real] if logits.shape[:2] == real.shape else logits.numpy()
    return found


def make(family: str) -> None:
    prefix, settings, heads = FAMILIES[family]
    folder, tokenizer = HERE / family, tokenizer_of(family)
    shutil.rmtree(folder, ignore_errors=True)
    token_ids, segment_ids = batch(settings["pad_token_id"])
    real = token_ids != settings["pad_token_id"]
    feed = {
        "input_ids": torch.from_numpy(token_ids).long(),
        "attention_mask": torch.from_numpy(real).long(),
    }
    arrays = {"token_ids": token_ids}
    feeds = {"": feed}
    if settings.get("type_vocab_size", 2) > 1 and family != "distilbert":
        arrays["segment_ids"] = segment_ids
        feeds["segments_"] = {**feed, "token_type_ids": torch.from_numpy(segment_ids).long()}
    for head in heads:
        with_tokenizer = head in ("classifier", "masked_lm")
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
        config = getattr(transformers, prefix + "Config")(
            vocab_size=len(tokenizer) if with_tokenizer else 60,
            **SIZES,
            **settings,
            **({"hidden_act": "relu"} if (family, head) in OTHER_LAYERS else {}),
            # one layer less where a table of heads is all that differs keeps the folders small
            num_hidden_layers=2 if head in ("model", "classifier") or family == "albert" else 1,
            **(labels if head in ("classifier", "tagger") else {}),
        )
        kind = getattr(transformers, prefix + HEADS[head])
        model = kind._from_config(config, attn_implementation="eager").eval()
        randomise(model)
        model.save_pretrained(folder / head)
        if with_tokenizer:
            tokenizer.save_pretrained(folder / head)
        for name, values in feeds.items():
            arrays |= {f"{head}_{name}{kind}": array for kind, array in outputs(model, values, real).items()}
        if head == "classifier":
            rows = tokenizer(SENTENCES, padding=True, truncation=True, max_length=24, return_tensors="pt")
            with torch.no_grad():
                arrays["probabilities"] = model(**rows).logits.softmax(-1).numpy()
    np.savez_compressed(folder / "golden.npz", **arrays)


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for family in FAMILIES:
        make(family)
