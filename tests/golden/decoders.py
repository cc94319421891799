"""What make_gpt2.py, make_llama.py and make_gemma.py share: inputs, random weights, the outputs of a model.

The inputs of every model, under the names that the tests use:
    batch    rows of different length, one padded on the left, with positions counted from its first token
    packed   one row of three documents, each with positions of its own
    past     one row, computed in two parts with a cache in between
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

VOCABULARY = 60
LENGTHS = (20, 7, 1, 13)
DOCUMENTS = (6, 9, 5)
PROMPT, CONTINUATION = 9, 5


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    token_ids = random.integers(1, VOCABULARY, (len(LENGTHS), max(LENGTHS)), dtype=np.int32)
    valid = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    valid[1] = valid[1, ::-1]
    return {
        "batch_token_ids": token_ids * valid,
        "batch_valid": valid,
        "batch_positions": np.maximum(np.cumsum(valid, axis=1, dtype=np.int32) - 1, 0),
        "packed_token_ids": random.integers(1, VOCABULARY, (1, sum(DOCUMENTS)), dtype=np.int32),
        "packed_ids": np.repeat(np.arange(len(DOCUMENTS), dtype=np.int32), DOCUMENTS)[None],
        "packed_positions": np.concatenate([np.arange(n, dtype=np.int32) for n in DOCUMENTS])[None],
        "past_token_ids": random.integers(1, VOCABULARY, (1, PROMPT + CONTINUATION), dtype=np.int32),
        "past_prompt": np.int32(PROMPT),
    }


def randomise(model: torch.nn.Module, scale_of_norm: float = 1.0) -> None:
    """Random values everywhere: a fresh model's zeros and ones would hide a bias or a scale put in a wrong place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            norm = name.endswith("weight") and ("norm" in name or "ln_" in name)
            tensor.copy_(scale_of_norm + 0.2 * noise if norm else 0.3 * noise)


def outputs(model: torch.nn.Module, arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Hidden states after the last norm and scores over the vocabulary, (real tokens, features) of every input."""
    model = model.eval()
    feed = {key: torch.from_numpy(value).long() for key, value in arrays.items() if value.ndim}
    found = {}
    with torch.no_grad():
        batch = {"attention_mask": feed["batch_valid"], "position_ids": feed["batch_positions"], "use_cache": False}
        real = arrays["batch_valid"] == 1
        hidden = model.base_model(feed["batch_token_ids"], **batch).last_hidden_state
        found[f"{name}_batch_hidden"] = hidden.numpy()[real]
        found[f"{name}_batch_logits"] = model(feed["batch_token_ids"], **batch).logits.numpy()[real]

        # transformers sees from the positions where a document begins
        ids = feed["packed_token_ids"]
        packed = model(ids, position_ids=feed["packed_positions"], use_cache=False).logits[0]
        alone = [model(document[None], use_cache=False).logits[0] for document in ids[0].split(list(DOCUMENTS))]
        assert torch.allclose(packed, torch.cat(alone), atol=1e-4), "transformers did not keep the documents apart"
        found[f"{name}_packed_logits"] = packed.numpy()

        ids = feed["past_token_ids"]
        first = model(ids[:, :PROMPT], use_cache=True)
        second = model(ids[:, PROMPT:], past_key_values=first.past_key_values, use_cache=True)
        found[f"{name}_past_logits"] = second.logits.numpy()[0]
    return found


def scores(model: torch.nn.Module, arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Scores of the classes, (rows, classes), of a model that reads the last token that is not padding (id 0)."""
    feed = {key: torch.from_numpy(arrays[f"batch_{key}"]).long() for key in ("token_ids", "valid", "positions")}
    with torch.no_grad():
        result = model.eval()(
            feed["token_ids"], attention_mask=feed["valid"], position_ids=feed["positions"], use_cache=False
        )
    return {f"{name}_scores": result.logits.numpy()}


def save(model: torch.nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # it names the version of transformers and no more
    again, loading = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
