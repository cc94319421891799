"""Rows of TensorFlow Datasets and of the Hugging Face hub. Both libraries are imported when a source needs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aillm_tf.data.tables import MissingColumn, listing, nearest


class Records(NamedTuple):
    """A source of records with known columns."""

    rows: Iterator[tuple[int, dict[str, Any]]]  # (example counted from 0, values)
    columns: list[str]
    label_names: dict[str, list[str]]  # class names of the columns that have them


def tfds_records(spec: str, columns: list[str] | None) -> Records:
    """Open ``name[/config][:version][:split]`` of TensorFlow Datasets; the split is "train" if none is given.

    Args:
        spec: what follows "tfds:" in the uri; the split may be a slice as in ``imdb_reviews:train[:10%]``.
        columns: features to read; None: all.

    Returns:
        :class:`Records`; class numbers are given by name, and -1 (no answer) as None.

    Reference:
        https://www.tensorflow.org/datasets/splits
    """
    import tensorflow_datasets as tfds

    name, split = re.fullmatch(r"([^:\[]+(?::\d+\.\d+\.\d+)?)(?::(.+))?", spec).groups()
    builder = tfds.builder(name)
    builder.download_and_prepare()
    return _tfds_records(builder, split, columns, f"tfds:{name}")


def directory_records(path: Path, split: str | None, columns: list[str] | None) -> Records:
    """Open a folder in TFDS's on-disk format (dataset_info.json, features.json and shards) that needs no code.

    Args:
        path: the folder.
        split: "train" if None.
        columns: features to read; None: all.

    Returns:
        :class:`Records`.

    Raises:
        ValueError: the folder is not in that format, or has no such split.
    """
    if not (path / "dataset_info.json").is_file():
        raise ValueError(
            f"{path} is a folder without dataset_info.json, so not a TFDS dataset. Name one of its files instead: "
            f"{listing(sorted(child.name for child in path.iterdir()))}"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(path))
    _match_shard_names(builder, path)
    return _tfds_records(builder, split, columns, str(path))


def _match_shard_names(builder, path: Path) -> None:
    """Read shards under the name they have: a dataset copied without its code can keep another in its metadata."""
    import tensorflow_datasets as tfds

    splits = []
    for info in builder.info.splits.values():
        template = info.filename_template
        shard = f"-{info.name}.{template.filetype_suffix}-00000-of-{len(info.shard_lengths):05d}"
        found = [child.name.removesuffix(shard) for child in path.iterdir() if child.name.endswith(shard)]
        if len(found) == 1 and found[0] != template.dataset_name:
            template = template.replace(template=f"{found[0]}-{{SPLIT}}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}")
        splits.append(info.replace(filename_template=template))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))


def _tfds_records(builder, split: str | None, columns: list[str] | None, name: str) -> Records:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    split = split or "train"
    splits = builder.info.splits
    if re.split(r"[\[+]", split)[0] not in [*splits, "all"]:
        raise ValueError(f"{name} has no split {split!r}; it has: {listing(splits)}")
    features = builder.info.features
    columns = _choose(columns, list(features), f"{name}:{split}")
    names = {c: found for c in columns if (found := _names_of(features[c]))}
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    dataset = dataset.map(lambda example: {column: example[column] for column in columns}, tf.data.AUTOTUNE)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        example = -1
        try:
            for example, values in enumerate(tfds.as_numpy(dataset)):
                yield example, {c: _class_name(_plain(values[c]), names.get(c)) for c in columns}
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise ValueError(
                f"{name}:{split}#{example + 1}: a shard is torn or missing ({error.message}). Get its files again"
            ) from error

    return Records(rows(), columns, names)


def hf_records(spec: str, columns: list[str] | None) -> Records:
    """Open ``name[/config][:split]`` of the Hugging Face hub, where a name may have an owner: ``owner/name/config``.

    Args:
        spec: what follows "hf:" in the uri; the split is "train" if none is given.
        columns: columns to read; None: all.

    Returns:
        :class:`Records`; class numbers are given by name, and -1 (no answer) as None.

    Raises:
        ImportError: the ``datasets`` library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f'"hf:{spec}" needs the datasets library: pip install datasets') from error

    path, _, split = spec.partition(":")
    parts = path.split("/")
    owner_and_name, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        dataset = datasets.load_dataset(owner_and_name, config, split=split or "train")
    except FileNotFoundError:
        if len(parts) != 2:
            raise
        dataset = datasets.load_dataset(parts[0], parts[1], split=split or "train")  # a name without owner, and config
    columns = _choose(columns, dataset.column_names, f"hf:{spec}")
    features = dataset.features
    names = {c: found for c in columns if (found := _names_of(features[c]))}
    chosen = dataset.select_columns(columns)
    rows = ((i, {c: _class_name(row[c], names.get(c)) for c in columns}) for i, row in enumerate(chosen))
    return Records(rows, columns, names)


def _choose(columns: list[str] | None, present: list[str], name: str) -> list[str]:
    missing = [column for column in columns or () if column not in present]
    if missing:
        raise MissingColumn(
            f"{name}: no column {missing[0]!r}; it has: {listing(present)}{nearest(missing[0], present)}"
        )
    return present if columns is None else columns


def _names_of(feature: Any) -> list[str] | None:
    """The class names of a feature that is a class, or a sequence of classes, in either library."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _class_name(value: Any, names: list[str] | None) -> Any:
    if isinstance(value, list):
        return [_class_name(one, names) for one in value]
    if names is None or not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None


def _plain(value: Any) -> Any:
    """numpy and bytes to Python values; broken UTF-8 is kept as surrogate escapes for the check of the column."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
