"""What make_t5.py, make_bart.py and make_marian.py share: a batch, random weights, the outputs of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def batch(vocab_size: int, first: int) -> dict[str, np.ndarray]:
    """Sources and targets of different lengths, padded at either end, and one with a hole in its mask.

    Args:
        vocab_size: of source and target.
        first: the first id that is no special token.
    """
    random = np.random.default_rng(0)
    arrays = {}
    for side, lengths in {"source": [26, 7, 1, 13], "target": [5, 18, 9, 1]}.items():
        ids = random.integers(first, vocab_size, (len(lengths), max(lengths)), dtype=np.int32)
        valid = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        valid[1] = valid[1, ::-1]  # this row is padded on the left
        arrays |= {f"{side}_ids": ids, f"{side}_valid": valid}
    # causal attention alone would hide a target that is read in spite of its mask
    arrays["target_valid"][2, 3] = 0
    return arrays


def randomise(model: torch.nn.Module) -> None:
    """Random values everywhere: a fresh model's zeros and ones would hide a bias or a scale put in a wrong place."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in sorted(tensors.items()):
            if "embed_positions" in name and not tensor.requires_grad:
                continue  # sinusoids
            noise = torch.randn(tensor.shape, generator=generator)
            scale_of_norm = "norm" in name and name.endswith("weight")
            tensor.copy_(1 + 0.2 * noise if scale_of_norm else 0.3 * noise)


def save(model: torch.nn.Module, folder: Path) -> None:
    model.eval().save_pretrained(folder)
    again, loading = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def outputs(model: torch.nn.Module, arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The encoder's states and the scores over the vocabulary, where neither source nor target is padding."""
    feed = {key: torch.from_numpy(value).long() for key, value in arrays.items() if key.endswith(("_ids", "_valid"))}
    with torch.no_grad():
        result = model(
            input_ids=feed["source_ids"],
            attention_mask=feed["source_valid"],
            decoder_input_ids=feed["target_ids"],
            decoder_attention_mask=feed["target_valid"],
        )
    return {
        f"{name}_encoder": result.encoder_last_hidden_state.numpy()[arrays["source_valid"] == 1],
        f"{name}_logits": result.logits.numpy()[arrays["target_valid"] == 1],
    }
