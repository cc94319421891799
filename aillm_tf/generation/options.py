"""GenerationOptions: how to decode, by the names that transformers' ``GenerationConfig`` has."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

logger = logging.getLogger("aillm_tf")

# Keys of generation_config.json that have another name in GenerationOptions, or choose no token.
READ_OTHERWISE = {"do_sample", "eos_token_id", "max_length", "min_length", "bos_token_id", "use_cache"}
READ_OTHERWISE |= {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "low_memory"}
READ_OTHERWISE |= {"return_dict_in_generate", "cache_implementation", "_from_model_config", "transformers_version"}
READ_OTHERWISE |= {"is_assistant", "num_assistant_tokens", "renormalize_logits"}
DEFAULT_TOP_K = 50  # of transformers, where sampling is on and nothing is said


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How to choose tokens and when to stop. Tokens are greedy, the likeliest each, unless something else is asked for.

    Attributes:
        max_new_tokens: at most so many tokens after the prompt.
        min_new_tokens: no stop before so many.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        top_k: draw from the so many likeliest only; 0: from all. For contrastive search, the number of candidates.
        top_p: draw from the likeliest tokens that together have this probability (Holtzman et al. 2020).
        min_p: draw from tokens that are at least this share as likely as the likeliest (Nguyen et al. 2024).
        typical_p: draw from the tokens whose surprise is nearest to the expected one and that together have this
            probability (Meister et al. 2023).
        repetition_penalty: logits of tokens that were there already, also in the prompt, are divided by it, or
            multiplied where they are negative (Keskar et al. 2019).
        no_repeat_ngram_size: no so many tokens in a row come twice; 0: they may.
        num_beams: beam search with so many beams; 1: none.
        length_penalty: the log-probability of a text is divided by its number of tokens to this power before texts are
            compared, and in `score`.
        early_stopping: of beam search: True stops at `num_beams` finished texts, False when the running ones are
            unlikely to get better, "never" when they cannot.
        num_beam_groups, diversity_penalty: beams in groups; a token that earlier groups took in the same step loses
            this much for each of them (Vijayakumar et al. 2018).
        penalty_alpha: contrastive search: weight of the largest similarity to an earlier hidden state (Su et al. 2022).
        num_return_sequences: texts for each prompt.
        stop_strings: a text ends before the first of these.
        stop_ids: a text ends at these tokens; None: at the tokenizer's or checkpoint's end token. () for none.
        bad_words_ids: rows of token ids that must not come.
        suppress_tokens: tokens that must not come.
        forced_bos_token_id: the first token (mBART: the language), of a decoder that reads an encoder.
        forced_eos_token_id: the last token where a text reaches `max_new_tokens`.
        decoder_start_token_id: what the decoder of an encoder-decoder begins with.
        pad_token_id: fills up what is shorter than the longest.
        seed: of draws. A text depends on its prompt and this number only, not on what else is in the batch.

    Raises:
        ValueError: a number out of its range, or two strategies at once.

    Example:
        >>> GenerationOptions(temperature=0.7, top_p=0.9).strategy
        'sample'
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float = 0.0
    num_return_sequences: int = 1
    stop_strings: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    seed: int = 0

    def __post_init__(self):
        # lists where they were read from JSON
        for name in ("stop_strings", "stop_ids", "suppress_tokens"):
            value = getattr(self, name)
            if isinstance(value, str | int):
                value = (value,)
            object.__setattr__(self, name, None if value is None else tuple(value))
        object.__setattr__(self, "bad_words_ids", tuple(tuple(word) for word in self.bad_words_ids))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {least}")
        for name in ("top_p", "typical_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share in (0, 1], not {getattr(self, name)}")
        for name in ("min_p", "penalty_alpha"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")
        if self.repetition_penalty <= 0.0:
            raise ValueError(f"repetition_penalty divides logits: give a number above 0, not {self.repetition_penalty}")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping is True, False or "never", not {self.early_stopping!r}')
        if any(not word for word in self.bad_words_ids):
            raise ValueError("bad_words_ids has an empty row: each is the tokens of a word")
        if "" in self.stop_strings:
            raise ValueError("stop_strings has an empty string, before which every text ends: leave it out")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(f"num_beams {self.num_beams} is not a multiple of num_beam_groups {self.num_beam_groups}")
        if self.num_beams > 1 and self.temperature > 0.0:
            raise ValueError("beam search draws nothing: give temperature 0, or num_beams 1 to sample")
        if self.penalty_alpha and (self.num_beams > 1 or self.temperature > 0.0):
            raise ValueError("contrastive search (penalty_alpha) goes with neither beams nor a temperature: give one")
        if self.penalty_alpha and self.top_k < 2:
            raise ValueError(f"contrastive search chooses among top_k tokens: give 2 or more, not {self.top_k}")
        if self.num_return_sequences > 1 and self.strategy == "sample" and not self.temperature:
            raise ValueError("greedy decoding gives one text: give a temperature above 0 or num_beams for more")
        if self.strategy == "contrastive" and self.num_return_sequences > 1:
            raise ValueError("contrastive search gives one text: give num_return_sequences 1")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} is more than num_beams {self.num_beams}"
            )

    @property
    def strategy(self) -> Literal["sample", "beam", "contrastive"]:
        """Which of the three loops decodes: "sample" is the greedy one, too."""
        return "beam" if self.num_beams > 1 else "contrastive" if self.penalty_alpha else "sample"

    def replace(self, **changes) -> GenerationOptions:
        """The options with some changed; one of these that changes nothing beside the others is named in the log.

        Raises:
            TypeError: an option that there is not.
        """
        known = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(f"unknown generation options {unknown}: known are {', '.join(sorted(known))}")
        made = dataclasses.replace(self, **changes)
        made.warn_of_unused(changes)
        return made

    def warn_of_unused(self, given: Iterable[str] | None = None) -> None:
        """Names in the log, once each, what was set and has no effect.

        Args:
            given: names of the options that somebody asked for; None: all. Those of a checkpoint nobody asked for.
        """
        unused = {}
        if not self.temperature:
            drawing = ("top_p", "min_p", "typical_p", "seed", *(["top_k"] if self.strategy != "contrastive" else []))
            unused = dict.fromkeys(drawing, "give a temperature above 0, without which nothing is drawn")
        if self.num_beams == 1:
            unused["early_stopping"] = "give num_beams above 1"
        if self.num_beam_groups == 1:
            unused["diversity_penalty"] = "give num_beam_groups above 1"
        elif not self.diversity_penalty:
            unused["num_beam_groups"] = "give a diversity_penalty, without which all groups find the same"
        changed = self.changed()
        for name in unused if given is None else given:
            if name in unused and name in changed:
                _warn(f"{name} {changed[name]} has no effect: {unused[name]}")

    def changed(self) -> dict[str, Any]:
        """The options that are not the default, as JSON can hold them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            field.name: _jsonable(values[field.name])
            for field in dataclasses.fields(self)
            if values[field.name] != field.default
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> GenerationOptions:
        """The options that a checkpoint asks for.

        Args:
            settings: contents of generation_config.json, see `aillm_tf.weights.generation.read_generation`. What is not
                known is named in the log. `max_length` and `min_length` count the token that a decoder starts with;
                that they count the prompt, too, of a model without an encoder is not followed.

        Example:
            >>> GenerationOptions.from_settings({"eos_token_id": 2, "num_beams": 4}).changed()
            {'num_beams': 4, 'stop_ids': [2]}
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in settings.items() if name in known and value is not None}
        if settings.get("eos_token_id") is not None:
            values["stop_ids"] = settings["eos_token_id"]
        for length, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if settings.get(length) and new not in values:
                values[new] = max(settings[length] - 1, 0)
        if settings.get("do_sample"):
            values.setdefault("temperature", 1.0)
            values.setdefault("top_k", DEFAULT_TOP_K)
            if values.get("num_beams", 1) > 1:
                logger.warning("the checkpoint samples within beam search, which is not supported: beams without draws")
                values["temperature"] = 0.0
        else:
            # transformers keeps the settings for sampling beside do_sample=False, and does not look at them
            values["temperature"] = 0.0
        left_out = sorted(set(settings) - known - READ_OTHERWISE)
        left_out = [name for name in left_out if settings[name] not in (None, 0, 0.0, 1.0, False, [], {})]
        if left_out:
            logger.warning("generation settings that are not supported were left out: %s", ", ".join(left_out))
        values["min_new_tokens"] = min(
            values.get("min_new_tokens", 0), values.get("max_new_tokens", cls.max_new_tokens)
        )
        return cls(**values)

    def to_settings(self) -> dict[str, Any]:
        """What to write as generation_config.json.

        Example:
            >>> GenerationOptions(stop_ids=(2,), temperature=0.5).to_settings()
            {'temperature': 0.5, 'do_sample': True, 'top_k': 0, 'eos_token_id': 2}
        """
        settings = {name: value for name, value in self.changed().items() if name not in ("seed", "stop_ids")}
        if self.temperature > 0.0:
            settings["do_sample"] = True
            settings.setdefault("top_k", 0)
        if self.stop_ids:
            settings["eos_token_id"] = self.stop_ids[0] if len(self.stop_ids) == 1 else list(self.stop_ids)
        return settings


_LEAST = {
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "temperature": 0.0,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "num_return_sequences": 1,
}


def _jsonable(value):
    return [_jsonable(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


@functools.cache  # once for a message
def _warn(message: str) -> None:
    logger.warning(message)
