"""Prints what works for each family, every cell measured: ``python benchmarks/families.py [FAMILY ...]``.

Needs torch and transformers. The models are the tiny random ones of tests/golden; each is loaded by transformers and by
us, given the same rows (of different length, padded), saved by us and loaded by transformers again. The tokenizers are
the tiny ones of tests/golden/tokenizers; their texts are those of texts.json and, where ../shared/data is there, all
lines of WikiText-2 valid and SST-2 dev. It takes some minutes on two cores.

    load         tensors of the checkpoints that have a place, of all; models of the family that were tried
    outputs      largest difference of hidden states (of an encoder-decoder those of the source), of scores over the
                 vocabulary and of the classes, float32, at real tokens; the aim is 1e-4
    export       what we save has the same names, shapes and bits
    reload       transformers loads that without a missing or unexpected tensor, and answers bit for bit as before
    host         texts whose ids are those of transformers' tokenizer, of all; special tokens in them are unquoted
    graph        texts whose ids in a TensorFlow graph are those on the host, of the same

A cell that misses its aim is in bold type.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))
TOLERANCE = 1e-4
LENGTHS = (17, 5, 1, 11)
# model_type: the folders of tests/golden/tokenizers that are of this family
TOKENIZERS = {
    "bert": ("bert_uncased", "bert_cased"),
    "distilbert": ("bert_uncased",),
    "electra": ("bert_uncased",),
    "roberta": ("roberta",),
    "xlm-roberta": ("xlm_roberta",),
    "albert": ("albert",),
    "gpt2": ("gpt2",),
    "llama": ("llama2", "llama3"),
    "mistral": ("llama2",),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen2",),
    "gemma": ("gemma",),
    "gemma2": ("gemma",),
    "gemma3_text": ("gemma",),
    "t5": ("t5",),
    "mt5": ("t5",),
    "bart": ("bart",),
    "mbart": ("mbart", "mbart50"),
    "marian": ("marian",),
}


def models() -> dict[str, list[Path]]:
    """Golden folders by model_type, in the order of weights/families.py."""
    from aillm_tf.weights.families import MODULES

    found: dict[str, list[Path]] = {model_type: [] for model_type in MODULES}
    for file in sorted(GOLDEN.rglob("config.json")):
        if (file.parent / "model.safetensors").exists():
            found[json.loads(file.read_text())["model_type"]].append(file.parent)
    return found


def rows(config, pad: int) -> dict:
    """Random token ids, padded on the right; for an encoder-decoder the targets are much like the sources."""
    import numpy as np

    chance = np.random.default_rng(0)
    ids = chance.integers(7, config.vocab_size, (len(LENGTHS), max(LENGTHS)), dtype=np.int32)
    valid = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    features = {"token_ids": np.where(valid, ids, pad).astype(np.int32), "valid": valid}
    if config.decoder_layers:
        features["target_ids"] = features["token_ids"] % (config.decoder_vocab_size or config.vocab_size)
        features["target_valid"] = valid
    return features


def their_outputs(model, features: dict) -> dict:
    """Hidden states and scores of transformers, by what they are; those of tokens at the real ones."""
    import torch

    valid = features["valid"] == 1
    ids, mask = (torch.from_numpy(features[name]).long() for name in ("token_ids", "valid"))
    feed = {"input_ids": ids, "attention_mask": mask}
    part = model.base_model
    if model.config.is_encoder_decoder:
        part = part.get_encoder()
    with torch.no_grad():
        outputs = {"hidden": part(**feed).last_hidden_state.numpy()[valid]}
        if model.config.is_encoder_decoder:
            targets = torch.from_numpy(features["target_ids"]).long()
            feed |= {"decoder_input_ids": targets, "decoder_attention_mask": mask}
        if type(model).__name__.endswith(("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "MTModel")):
            outputs["vocabulary"] = model(**feed).logits.numpy()[valid]
        elif type(model).__name__.endswith("ForMaskedLM"):
            outputs["masked"] = model(**feed).logits.numpy()[valid]
        elif type(model).__name__.endswith("ForSequenceClassification") and not _generates(model):
            outputs["classes"] = model(**feed).logits.numpy()
    return outputs


def _generates(model) -> bool:
    """Whether its classifier reads the last token, for which we have no task."""
    return model.config.is_encoder_decoder or "classifier" not in dict(model.named_children())


def our_outputs(folder: Path, features: dict, wanted) -> dict:
    import numpy as np

    from aillm_tf.tasks.classification import TextClassifier
    from aillm_tf.tasks.masked_lm import MaskedLM
    from aillm_tf.weights.backbones import load_backbone

    valid = features["valid"] == 1
    backbone, tokenizer = load_backbone(folder)
    hidden = backbone.encode(features) if backbone.config.decoder_layers else backbone(features)
    outputs = {"hidden": np.asarray(hidden)[valid]}
    if "vocabulary" in wanted:
        outputs["vocabulary"] = np.asarray(backbone.logits(backbone(features)))[valid]
    options = {"dtype": "float32", "max_length": min(24, backbone.config.max_length)}
    if "masked" in wanted and tokenizer is not None:
        outputs["masked"] = np.asarray(MaskedLM.from_pretrained(str(folder), **options).logits(features))[valid]
    if "classes" in wanted and tokenizer is not None:
        outputs["classes"] = np.asarray(TextClassifier.from_pretrained(str(folder), **options).logits(features))
    return outputs


def measure_model(folder: Path) -> dict:
    """One golden folder: what was loaded, how far the outputs are, whether the way back is exact."""
    import numpy as np
    import torch
    import transformers
    from safetensors.numpy import load_file

    from aillm_tf.weights.loading import load_pretrained, save_pretrained

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    pretrained = load_pretrained(folder)
    pad = model.config.pad_token_id or 0
    features = rows(pretrained.config, pad)
    theirs = their_outputs(model, features)
    ours = our_outputs(folder, features, theirs)
    difference = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
    with tempfile.TemporaryDirectory() as target:
        save_pretrained(
            target,
            pretrained.config,
            {name: pretrained.read(name) for name in pretrained.names},
            None,
            architecture=architecture,
            labels=pretrained.labels,
            settings=pretrained.settings,
            generation=pretrained.generation,
        )
        before, after = load_file(folder / "model.safetensors"), load_file(Path(target) / "model.safetensors")
        again, loading = kind.from_pretrained(
            target, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
        repeated = their_outputs(again.eval(), features)
    pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    return {
        "tensors": len(before),
        "unused": len(pretrained.unused),
        "compared": sorted(ours),
        "difference": difference,
        "exported": {n: (a.shape, a.tobytes()) for n, a in before.items()}
        == {n: (a.shape, a.tobytes()) for n, a in after.items()},
        "reloaded": not any(loading.values())
        and all(np.array_equal(theirs[name], repeated[name]) for name in theirs)
        and all(torch.equal(first, second) for first, second in pairs),
    }


def real_texts() -> list[str]:
    """Lines of WikiText-2 valid and SST-2 dev; none where the data is not there."""
    files = [file for file in (DATA / "wikitext2" / "valid.txt", DATA / "sst2" / "dev.tsv") if file.exists()]
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def measure_tokenizer(folder: Path, texts: list[str]) -> tuple[int, int | str, int]:
    """Texts whose ids are those of transformers on the host, and in the graph those on the host, of how many."""
    import numpy as np
    import transformers

    from aillm_tf.text.graph import mismatches
    from aillm_tf.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(folder)
    # "<unk>" in a text (WikiText has it in every other line) is a token for transformers and letters for us, on purpose
    for token in filter(None, (tokenizer.vocabulary[i] for i in tokenizer.special_ids)):
        texts = [text.replace(token, token.strip("<>[]|")) for text in texts]
    reference = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoded = tokenizer.encode(texts)
    ours = [row.tolist() for row in np.split(encoded.ids, encoded.offsets[1:-1])]
    host = sum(mine == reference(text)["input_ids"] for mine, text in zip(ours, texts, strict=True))
    try:
        graph: int | str = len(texts) - len(mismatches(tokenizer, texts))
    except NotImplementedError as error:
        graph = str(error)
    return host, graph, len(texts)


def cell(good: bool, text: str) -> str:
    return text if good else f"**{text}**"


def row(model_type: str, folders: list[Path], texts: list[str]) -> list[str]:
    """The cells of one family."""
    if not folders:
        return [model_type, *["not measured"] * 6]
    measured = [measure_model(folder) for folder in folders]
    tensors, unused = (sum(m[key] for m in measured) for key in ("tensors", "unused"))
    difference = max((m["difference"] for m in measured), default=float("nan"))
    compared = sorted({name for m in measured for name in m["compared"]})
    counts = [measure_tokenizer(GOLDEN / "tokenizers" / name, texts) for name in TOKENIZERS.get(model_type, ())]
    total = sum(count for *_, count in counts)
    host = sum(found for found, *_ in counts)
    refused = [graph for _, graph, _ in counts if isinstance(graph, str)]
    graph = sum(found for _, found, _ in counts if not isinstance(found, str))
    exported, reloaded = (sum(m[key] for m in measured) for key in ("exported", "reloaded"))
    return [
        model_type,
        cell(not unused and bool(measured), f"{tensors - unused}/{tensors} tensors, {len(measured)} models"),
        cell(difference <= TOLERANCE, f"{difference:.1e} ({', '.join(compared)})"),
        cell(exported == len(measured), f"{exported}/{len(measured)} bit-equal"),
        cell(reloaded == len(measured), f"{reloaded}/{len(measured)} bit-equal"),
        cell(host == total > 0, f"{host:,}/{total:,}"),
        refused[0] if refused else cell(graph == total > 0, f"{graph:,}/{total:,}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="model_type (default: all)")
    options = parser.parse_args()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    texts = json.loads((GOLDEN / "tokenizers" / "texts.json").read_text("utf-8"))["texts"] + real_texts()
    print("| family | load | outputs | export | reload in transformers | tokenizer host = HF | graph = host |")
    print("|---|---|---|---|---|---|---|")
    for model_type, folders in models().items():
        if not options.families or model_type in options.families:
            print("| " + " | ".join(row(model_type, folders, texts)) + " |", flush=True)


if __name__ == "__main__":
    main()
