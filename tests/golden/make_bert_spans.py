"""Makes the golden numbers of BERT's span head with transformers and torch: ``python tests/golden/make_bert_spans.py``.

Writes beside itself bert_spans/, a tiny random BertForQuestionAnswering as transformers saves it, with a tokenizer, and
bert_spans.npz, a padded batch with segment ids and its logits at real tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from make_bert import HERE, randomise, tiny_config, write_tokenizer
from transformers import BertForQuestionAnswering

if __name__ == "__main__":
    random = np.random.default_rng(0)
    lengths = np.array([20, 7, 3, 13])
    token_ids = random.integers(5, 120, (len(lengths), lengths.max()))
    valid = np.arange(lengths.max()) < lengths[:, None]
    segment_ids = (np.arange(lengths.max()) >= lengths[:, None] // 2) & valid
    config = tiny_config()
    config.num_labels = 2
    model = BertForQuestionAnswering._from_config(config, attn_implementation="eager").eval()
    randomise(model)
    model.save_pretrained(HERE / "bert_spans")
    write_tokenizer(HERE / "bert_spans")
    feed = {"input_ids": token_ids * valid, "token_type_ids": segment_ids, "attention_mask": valid}
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(array.astype(np.int64)) for name, array in feed.items()})
    np.savez_compressed(
        HERE / "bert_spans.npz",
        token_ids=feed["input_ids"].astype(np.int32),
        segment_ids=segment_ids.astype(np.int32),
        valid=valid.astype(np.int32),
        logits=np.stack([out.start_logits.numpy()[valid], out.end_logits.numpy()[valid]], axis=-1),
    )
