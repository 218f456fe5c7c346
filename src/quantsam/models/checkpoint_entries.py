"""Find a model's entries in a checkpoint, whatever wrapped the model when it was saved."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from quantsam.errors import WeightsError
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import VARIANTS, Variant

Shapes = dict[str, tuple[int, ...]]
COUNTER = "num_batches_tracked"  # BatchNorm's; only training reads it
# Names that DistributedDataParallel and its like, torch.compile, FSDP and activation checkpointing add.
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


@functools.cache
def expected_shapes(variant: Variant) -> Shapes:
    """Return the name and shape of every entry of a variant's state dict."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in EfficientViTSam(variant).state_dict().items()}


def entries_of(found: Shapes, path: Path, variant: Variant) -> dict[str, str]:
    """Find the model's entries in a file. Return a mapping from the variant's name of each entry to the file's name.

    The parts that wrappers add to the names do not count, nor does a prefix that the entries share. BatchNorm's
    counters may be missing. Each surplus entry must be a single number or a counter: neither changes a mask.

    Args:
        found: The shapes of the file's entries.
        path: The file, for messages.
        variant: The variant that the entries must fit.

    Raises:
        WeightsError: The entries do not fit; the message names the variant that fits, or what is missing and surplus.
    """
    expected = expected_shapes(variant)
    named = _own_names(found, expected, path)
    problem = _problem(found, named, expected)
    if not problem:
        return {name: stored for name, stored in named.items() if name in expected}
    for other in VARIANTS.values():
        shapes = expected_shapes(other)
        if not _problem(found, _own_names(found, shapes, path), shapes):
            raise WeightsError(
                f"weights file {str(path)!r} must fit model {variant.name!r}, got the weights of {other.name!r}: use "
                f"--model {other.name}"
            )
    raise WeightsError(
        f"weights file {str(path)!r} must fit model {variant.name!r}, got {problem}{_way_out(found, path)}"
    )


def _own_names(found: Iterable[str], expected: Mapping[str, object], path: Path) -> dict[str, str]:
    """Map each name without wrappers and common prefix to the file's name."""
    plain = {stored: ".".join(part for part in stored.split(".") if part not in _WRAPPERS) for stored in found}
    prefix = _prefix(plain.values(), expected)
    named = {stored: name.removeprefix(prefix) for stored, name in plain.items()}
    twice = [name for name, count in Counter(named.values()).items() if count > 1 and name in expected]
    if twice:
        both = [stored for stored, name in named.items() if name == twice[0]]
        raise WeightsError(
            f"weights file {str(path)!r} holds {twice[0]} more than once ({', '.join(both[:2])}): "
            "export one model's state dict alone"
        )
    return {name: stored for stored, name in named.items()}


def _prefix(names: Iterable[str], expected: Mapping[str, object]) -> str:
    """Return the prefix of the names of a model's entries: `model.`, or nothing."""
    longest = max(expected, key=len)
    ends = [name.removesuffix(longest) for name in names if name == longest or name.endswith(f".{longest}")]
    return "" if not ends else min(ends, key=len)


def _problem(found: Shapes, named: Mapping[str, str], expected: Shapes) -> str:
    """Say what does not fit; empty if everything that matters fits."""
    missing = sorted(name for name in expected.keys() - named.keys() if not name.endswith(COUNTER))
    surplus = sorted(named.keys() - expected.keys())
    changed = sorted(name for name in expected.keys() & named.keys() if not _fits(expected[name], found[named[name]]))
    if not missing and not changed and all(_is_idle(name, found[named[name]]) for name in surplus):
        return ""
    return "; ".join(
        f"{len(names)} entries {word} (first: {names[0]})"
        for word, names in (("missing", missing), ("unknown", surplus), ("of another shape", changed))
        if names
    )


def _is_idle(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(COUNTER) or math.prod(shape) == 1


def _fits(expected: tuple[int, ...], found: tuple[int, ...]) -> bool:
    return expected == found or (math.prod(expected) == math.prod(found) == 1)


def _way_out(found: Shapes, path: Path) -> str:
    """Say what would help: name the variant whose entries are all there beside surplus ones, if there is one."""
    for candidate in VARIANTS.values():
        expected = expected_shapes(candidate)
        named = _own_names(found, expected, path)
        if all(name in named and _fits(shape, found[named[name]]) for name, shape in expected.items()):
            surplus = sorted(name for name in named.keys() - expected.keys() if not _is_idle(name, found[named[name]]))
            return (
                f": it holds all of {candidate.name!r}, and {len(surplus)} surplus entries that the model has no place "
                "for; remove them, or merge them into its weights if they are adapters"
            )
    return ": no EfficientViT-SAM variant fits it"
