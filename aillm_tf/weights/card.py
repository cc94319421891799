"""The model card (README.md) of a folder for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aillm_tf.version import __version__


def model_card(config: Mapping[str, Any], name: str, about: Mapping[str, Any], tokenizer: bool = True) -> str:
    """The card: what it is, what it was made of, how it scored, how to load it.

    Args:
        config: the contents of config.json.
        name: the model's, for the title.
        about: any of "base_model" (a source), "license" (as the hub names it), "task", "data" (a source), "scores"
            (name to number), "settings" (of the recipe, as YAML), "languages" (codes).
        tokenizer: whether the folder has one.

    Returns:
        Markdown with a YAML header. A license that is not known is left to be filled in.

    Example:
        >>> print(model_card({"model_type": "bert", "architectures": ["BertModel"]}, "mine", {}).splitlines()[1])
        library_name: transformers
    """
    architecture = config["architectures"][0]
    base, scores = about.get("base_model"), about.get("scores") or {}
    head = ["library_name: transformers", f"tags: [{config['model_type']}, aillm_tf]"]
    if about.get("license"):
        head.append(f"license: {json.dumps(about['license'])}")
    else:
        head.append("# license: not known; say which before you publish (the base model's binds this one)")
    if base and base.startswith("hf:"):
        head.append(f"base_model: {json.dumps(base.removeprefix('hf:').partition('@')[0])}")
    if about.get("languages"):
        head.append(f"language: {json.dumps(list(about['languages']))}")
    lines = ["---", *head, "---", f"# {name}", "", f"`{architecture}`, written by aillm_tf {__version__}."]
    facts = {"Base model": base, "Task": about.get("task"), "Data": about.get("data")}
    facts["Classes"] = ", ".join(config.get("id2label", {}).values())
    told = [f"- {label}: {value}" for label, value in facts.items() if value]
    lines += ["", *told] if told else []
    if scores:
        lines += ["", "## Scores", "", "| score | value |", "|---|---|"]
        lines += [
            f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
            for name, value in scores.items()
        ]
    if about.get("settings"):
        lines += ["", "## Recipe", "", "```yaml", about["settings"].strip(), "```"]
    names = ["AutoTokenizer", architecture] if tokenizer else [architecture]
    lines += ["", "## Use", "", "```python", f"from transformers import {', '.join(names)}", ""]
    lines += [f'model = {architecture}.from_pretrained("{name}")']
    lines += [f'tokenizer = AutoTokenizer.from_pretrained("{name}")'] if tokenizer else []
    return "\n".join([*lines, "```", ""])
