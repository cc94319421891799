"""Tokenizer files of Hugging Face folders: which ones count, what they say, and writing them.

Notable here:

* tokenizer.json says all; the older files need to know their family, from tokenizer_class, model_type or, failing
  both, from the special tokens the vocabulary has.
* SentencePiece files are kept as bytes and written back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken

from aillm_tf.text import backends
from aillm_tf.text.backends import FAMILIES
from aillm_tf.text.sentencepiece_model import CONTROL, SentencePieceModel, read_sentencepiece
from aillm_tf.text.tokenizer_json import ROLES, byte_level

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["read_folder", "write_folder"]

SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
MARIAN = ("source.spm", "target.spm", "vocab.json")
SENTENCEPIECE_FAMILIES = ("t5", "albert", "xlm-roberta", "mbart", "mbart50", "llama", "gemma")
# What tokenizer_config.json says for others than the tokenizer.
KEPT = ("model_max_length", "padding_side", "src_lang", "tgt_lang", "source_lang", "target_lang", "separate_vocabs")


def read_folder(path: str | PathLike, side: str) -> dict[str, Any]:
    """Reads what `Tokenizer.from_folder` is made of.

    Returns:
        The arguments of `Tokenizer`.
    """
    path = Path(path)
    if side not in ("source", "target"):
        raise ValueError(f"side={side!r}: a translation has a 'source' and a 'target'")
    folder = path.parent if path.is_file() else path
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config |= _read_object(folder / name)
    alone = path.is_file() and path.name not in MARIAN[:2]
    names = [path.name] if alone else sorted(entry.name for entry in folder.glob("*") if entry.is_file())
    read, source = _choose(path, names)
    family = _family_name(folder, config)
    arguments = read(folder, source, family, config, side)
    arguments["settings"] = {key: config[key] for key in KEPT if config.get(key) is not None}
    arguments["chat_template"] = _chat_template(folder, config)
    return arguments


def write_folder(tokenizer: Tokenizer, folder: str | PathLike) -> None:
    """Writes what `Tokenizer.save` promises."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = json.loads(tokenizer.json)
    model = description["model"]
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    config: dict[str, Any] = dict(tokenizer.settings)
    config |= {f"{role}_token": token for role, token in tokenizer.special_tokens.items()}
    if MARIAN[0] in tokenizer.files:
        # transformers has one class for Marian, and it reads these files and no tokenizer.json.
        config |= {"tokenizer_class": "MarianTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
    else:
        # The library's own writer, so that the file is laid out as others expect it.
        tokenizers.Tokenizer.from_str(tokenizer.json).save(str(folder / "tokenizer.json"))
        # The class that takes tokenizer.json as it is; it hands out segment ids only where they are asked for here.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        names = ["input_ids", "token_type_ids", "attention_mask"]
        config["model_input_names"] = names if tokenizer.encode([""], [""]).segment_ids.any() else names[::2]
        normalizer = description["normalizer"] or {}
        if normalizer.get("type") == "BertNormalizer":
            config["do_lower_case"] = normalizer["lowercase"]
            config["strip_accents"] = normalizer["strip_accents"]
            config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
        if tokenizer.kind == "wordpiece":
            (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokenizer.vocabulary).encode())
        elif tokenizer.kind == "bpe" and byte_level(description):
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
            _write_json(folder / "vocab.json", model["vocab"])
    _write_json(folder / "tokenizer_config.json", config)
    if isinstance(tokenizer.chat_template, str):
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, "utf-8")
    elif tokenizer.chat_template:
        templates = dict(tokenizer.chat_template)
        (folder / "chat_template.jinja").write_text(templates.pop("default", ""), "utf-8")
        for name, text in templates.items():
            (folder / "additional_chat_templates").mkdir(exist_ok=True)
            (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text, "utf-8")


def _choose(path: Path, names: list[str]):
    """Returns the function that reads the files that count, and the first of them."""
    marian = [name for name in MARIAN if name in names]
    if set(MARIAN[:2]) & set(marian):
        if len(marian) < len(MARIAN):
            missing = ", ".join(name for name in MARIAN if name not in names)
            raise FileNotFoundError(f"{path}: has {', '.join(marian)} but not {missing}; Marian needs them all")
        return _from_marian, MARIAN[0]
    if "tokenizer.json" in names:
        return _from_json, "tokenizer.json"
    for name in [*SENTENCEPIECE, *(name for name in names if name.endswith((".model", ".spm")))]:
        if name in names:
            return _from_sentencepiece, name
    for name in names:
        # A file that was named may be called otherwise; in a folder it is vocab.json.
        if name == "vocab.json" or (path.is_file() and name == "merges.txt"):
            return _from_merges, "vocab.json"
    if "vocab.txt" in names or (path.is_file() and path.suffix == ".txt"):
        return _from_vocabulary, "vocab.txt" if "vocab.txt" in names else path.name
    if path.is_file() and path.suffix == ".json":
        return _from_json, path.name
    there = names if path.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"{path}: neither tokenizer.json nor vocab.txt, vocab.json with merges.txt or a SentencePiece *.model is there "
        f"(found: {there})"
    )


def _from_json(folder: Path, name: str, family: str | None, config: Mapping, side: str) -> dict[str, Any]:
    file = folder / name
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error
    _add_listed(backend, folder, config)
    known = backend.get_vocab(with_added_tokens=True)
    # Folders name tokens their vocabulary lacks (a pad token nobody added); such a role is left out.
    roles = {role: token for role, token in _roles(family, config).items() if token in known}
    _put_ends(backend, family, config, roles)
    files = {entry.name: entry.read_bytes() for entry in folder.glob("*.model") if entry.name in SENTENCEPIECE}
    return {"backend": backend, "special_tokens": roles, "files": files}


def _from_sentencepiece(folder: Path, name: str, family: str | None, config: Mapping, side: str) -> dict[str, Any]:
    data = (folder / name).read_bytes()
    model = read_sentencepiece(data, str(folder / name))
    family = family or _guess_sentencepiece(model, name)
    row = FAMILIES.get(family)
    if row not in [FAMILIES[key] for key in SENTENCEPIECE_FAMILIES]:
        raise ValueError(
            f"{folder / name}: SentencePiece of the family {family!r} is not known; known are "
            f"{', '.join(SENTENCEPIECE_FAMILIES)} and their kin. tokenizer.json, where it can be had, needs no family"
        )
    roles = _roles(family, config)
    present = {text for text, _, _ in backends.numbered(model, row, config)}
    needed = [token for role, token in roles.items() if f"{{{role}}}" in row.single]
    missing = [token for token in needed if token not in present]
    if missing:
        raise ValueError(
            f"{folder / name}: has no piece {', '.join(missing)}, which {family} puts around texts; tokenizer_class or "
            "model_type say the family, tokenizer_config.json names its tokens"
        )
    roles = {role: token for role, token in roles.items() if token in present}
    backend = backends.sentencepiece(model, row, roles, config)
    _add_listed(backend, folder, config)
    _put_ends(backend, family, config, roles)
    return {"backend": backend, "special_tokens": roles, "files": {name: data}}


def _from_marian(folder: Path, name: str, family: str | None, config: Mapping, side: str) -> dict[str, Any]:
    separate = bool(config.get("separate_vocabs"))
    files = {name: (folder / name).read_bytes() for name in MARIAN}
    vocabulary = "vocab.json"
    if separate:
        if not (folder / "target_vocab.json").is_file():
            raise FileNotFoundError(f"{folder}: separate_vocabs is set, but target_vocab.json is not there")
        files["target_vocab.json"] = (folder / "target_vocab.json").read_bytes()
        vocabulary = "target_vocab.json" if side == "target" else vocabulary
    ids = _read_ids(folder / vocabulary)
    if set(ids.values()) != set(range(len(ids))):
        gap = next(index for index in range(len(ids)) if index not in set(ids.values()))
        raise ValueError(f"{folder / vocabulary}: {len(ids)} tokens, but none has id {gap}")
    spm = f"{side}.spm"
    model = read_sentencepiece(files[spm], str(folder / spm))
    if model.kind != "unigram":
        raise ValueError(f"{folder / spm}: a SentencePiece model of kind {model.kind}; Marian's are unigram")
    roles = {role: token for role, token in _roles("marian", config).items() if token in ids}
    missing = [role for role in ("unk", "eos") if role not in roles]
    if missing:
        raise ValueError(f"{folder / vocabulary}: has no {' and no '.join(missing)} token, which Marian needs")
    backend = backends.marian(model, ids, roles)
    return {"backend": backend, "special_tokens": roles, "files": files, "vocab_size": len(ids)}


def _from_merges(folder: Path, name: str, family: str | None, config: Mapping, side: str) -> dict[str, Any]:
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for file in (vocabulary, merges):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not there; byte-level BPE is vocab.json with merges.txt")
    ids = _read_ids(vocabulary)
    pairs = _read_merges(merges, ids)
    family = family or ("roberta" if {"<s>", "<pad>", "</s>", "<mask>"} <= ids.keys() else "gpt2")
    row = FAMILIES.get(family, FAMILIES["gpt2"])
    for index, token in _listed(folder, config).items():
        if ids.setdefault(token["content"], index) != index:
            raise ValueError(f"{vocabulary}: {token['content']!r} is {ids[token['content']]}, but added as {index}")
    roles = {role: token for role, token in _roles(family, config).items() if token in ids}
    missing = [role for role in ("cls", "sep") if role in row.roles and role not in roles]
    if missing:
        raise ValueError(f"{vocabulary}: has no token for {' and '.join(missing)}, which {family} puts around texts")
    backend = backends.byte_level(ids, pairs, row, roles, bool(config.get("add_prefix_space", False)))
    _add_listed(backend, folder, config)
    _put_ends(backend, family, config, roles)
    return {"backend": backend, "special_tokens": roles}


def _from_vocabulary(folder: Path, name: str, family: str | None, config: Mapping, side: str) -> dict[str, Any]:
    file = folder / name
    lines = _read_text(file).split("\n")
    vocabulary = lines[:-1] if lines[-1] == "" else lines
    ids = {token: index for index, token in enumerate(vocabulary)}
    lowercase = config.get("do_lower_case")
    if lowercase is None:
        words = (token for token in vocabulary if not token.startswith("["))
        lowercase = not any("A" <= letter <= "Z" for word in words for letter in word)
    roles = {**FAMILIES["bert"].roles, **_roles("bert", config)}
    missing = [roles[role] for role in ("unk", "cls", "sep") if roles[role] not in ids]
    if missing:
        raise ValueError(
            f"{file}: a vocabulary of {len(vocabulary)} tokens without {', '.join(missing)}, which BERT needs; is it a "
            "WordPiece vocabulary? tokenizer_config.json names tokens of other names"
        )
    roles = {role: token for role, token in roles.items() if token in ids}
    split_chinese = config.get("tokenize_chinese_chars", True)
    backend = backends.wordpiece(ids, roles, lowercase, config.get("strip_accents"), split_chinese)
    return {"backend": backend, "special_tokens": roles}


def _family_name(folder: Path, config: Mapping) -> str | None:
    """Returns the key of FAMILIES that tokenizer_config.json or config.json name; a name as it is where unknown."""
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer").lower()
    if name in FAMILIES:
        return name
    if (folder / "config.json").is_file():
        return _read_object(folder / "config.json").get("model_type")
    return None


def _guess_sentencepiece(model: SentencePieceModel, name: str) -> str:
    if model.kind == "bpe":
        return "llama" if model.dummy_prefix else "gemma"
    if "[CLS]" in model.of_type(CONTROL):
        return "albert"
    return "xlm-roberta" if name == "sentencepiece.bpe.model" else "t5"


def _roles(family: str | None, config: Mapping) -> dict[str, str]:
    """Returns role to token: what the files say, else what the family has."""
    roles = dict(FAMILIES[family].roles) if family in FAMILIES else {}
    for role in ROLES:
        if f"{role}_token" in config:
            token = _content(config[f"{role}_token"])
            roles.pop(role, None)
            if token is not None:
                roles[role] = token
    return roles


def _content(token: Any) -> str | None:
    # transformers writes a token as a string or as {"content": string, ...}.
    return token.get("content") if isinstance(token, dict) else token


def _listed(folder: Path, config: Mapping) -> dict[int, dict[str, Any]]:
    """Returns id to token with its flags, of tokens added to a vocabulary later."""
    listed = {}
    if (folder / "added_tokens.json").is_file():
        listed = {index: {"content": token} for token, index in _read_ids(folder / "added_tokens.json").items()}
    for index, token in (config.get("added_tokens_decoder") or {}).items():
        listed[int(index)] = dict(token) if isinstance(token, dict) else {"content": token}
    return dict(sorted(listed.items()))


def _add_listed(backend: tokenizers.Tokenizer, folder: Path, config: Mapping) -> None:
    """Adds the tokens that are listed beside the vocabulary and not yet in the backend, with their ids."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for index, token in _listed(folder, config).items():
        content = token["content"]
        if content in known:
            continue
        flags = {name: bool(token.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "special")}
        added = AddedToken(content, normalized=bool(token.get("normalized", False)), **flags)
        (backend.add_special_tokens if flags["special"] else backend.add_tokens)([added])
        if backend.token_to_id(content) != index:
            raise ValueError(
                f"{folder}: the added token {content!r} should have id {index}, but the vocabulary leads to "
                f"{backend.token_to_id(content)}; files of two models?"
            )


def _put_ends(backend: tokenizers.Tokenizer, family: str | None, config: Mapping, roles: Mapping[str, str]) -> None:
    """Follows add_bos_token and add_eos_token, which decoders' settings may say."""
    row = FAMILIES.get(family)
    if not {"add_bos_token", "add_eos_token"} & config.keys() or (row and not {"cls", "sep"}.isdisjoint(row.roles)):
        return
    if row is FAMILIES["t5"]:
        return
    begins = config.get("add_bos_token", row is not None and "{bos}" in row.single)
    bos, eos = "{bos}" if begins and "bos" in roles else "", "{eos}" if config.get("add_eos_token") else ""
    eos = eos if "eos" in roles else ""
    one = [[part for part in (bos, "$A", eos) if part], [part for part in (bos, "$B", eos) if part]]
    single, second = (" ".join(f"{part}:{segment}" for part in parts) for segment, parts in enumerate(one))
    ids = backend.get_vocab(with_added_tokens=True)
    backend.post_processor = backends.template(single, f"{single} {second}", roles, ids)


def _chat_template(folder: Path, config: Mapping) -> str | dict[str, str] | None:
    """Returns the template, or templates by name where there are several."""
    templates: dict[str, str] = {}
    given = config.get("chat_template")
    if isinstance(given, str):
        templates["default"] = given
    elif given:
        templates |= {entry["name"]: entry["template"] for entry in given}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read_text(folder / "chat_template.jinja")
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        templates[file.stem] = _read_text(file)
    return templates.get("default") if templates.keys() <= {"default"} else templates


def _read_ids(file: Path) -> dict[str, int]:
    ids = _read_object(file)
    wrong = next((token for token, index in ids.items() if type(index) is not int or index < 0), None)
    if wrong is not None:
        raise ValueError(f"{file}: token {wrong!r} has {ids[wrong]!r} in place of an id")
    return ids


def _read_merges(file: Path, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(_read_text(file).split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"{file}:{number}: expected two tokens with a space between, found {line!r}")
        unknown = [token for token in (*pair, "".join(pair)) if token not in ids]
        if unknown:
            raise ValueError(f"{file}:{number}: {unknown[0]!r} is not in vocab.json; files of two models?")
        pairs.append(pair)
    return pairs


def _read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8; vocabularies are UTF-8 text") from error


def _read_object(file: Path) -> dict:
    try:
        value = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
