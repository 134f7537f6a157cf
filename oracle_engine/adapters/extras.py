"""Keyword arguments that samplers and pipelines pass to any network: ignored where they cannot change an oracle."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..base.arrays import Tensor
from ..base.calls.checked import required
from ..base.calls.transforms import unreadable
from ..base.errors import invalid

# how a network computes, and where its tokens are
IGNORED = frozenset({"force_fp32", "img_ids", "txt_ids"})
# what a network was conditioned on in training, and a data set with classes knows nothing of
CONDITIONS = frozenset(
    {
        "encoder_hidden_states",
        "encoder_attention_mask",
        "encoder_hidden_states_mask",
        "attention_mask",
        "pooled_projections",
        "added_cond_kwargs",
        "mapping_cond",
        "unet_cond",
        "cross_cond",
        "cross_cond_padding",
    }
)
# which of the images or of the layers the answer is of: only "none of these" is the oracle
_CHANGING: Mapping[str, str] = MappingProxyType(
    {
        "augment_labels": "the oracle of augmented images is another one; store them as the data set, or pass zeros",
        "aug_cond": "the oracle of augmented images is another one; store them as the data set, or pass zeros",
        "skip_layers": "an oracle has no layers to skip; guide it with class labels and guidance=",
        "controlnet_block_samples": "an oracle has no layers to add to; leave it out",
        "controlnet_single_block_samples": "an oracle has no layers to add to; leave it out",
        "block_controlnet_hidden_states": "an oracle has no layers to add to; leave it out",
        "joint_attention_kwargs": "an oracle has no attention to change; leave it out",
        "cross_attention_kwargs": "an oracle has no attention to change; leave it out",
        "attention_kwargs": "an oracle has no attention to change; leave it out",
    }
)


def check_extras(extras: Mapping[str, Any], *, ignore_conditions: bool) -> None:
    """Refuse keyword arguments that could change what a network returns.

    extras: what a loop passed beside the arguments that the adapter knows, by name. None, empty containers and zeros
        say "nothing of the kind" and are always accepted.
    ignore_conditions: whether text embeddings and other conditions are ignored: where the caller says so, or where
        class labels say what is wanted.
    Raises InputError for other conditions, for augmentations, skipped layers and changed attention, and for names that
    are not known here.
    """
    for name, value in extras.items():
        if name in IGNORED or _says_nothing(value):
            continue
        if name in CONDITIONS:
            if not ignore_conditions:
                remedy = "pass class labels as well, or ignore_conditions=True for the oracle without a condition"
                raise invalid(name, "is a condition that the data set knows nothing of", _described(value), remedy)
        elif name in _CHANGING and isinstance(value, Tensor):
            required(value, value == 0, name, "must be None, empty or zeros", _CHANGING[name])
        elif name in _CHANGING:
            raise invalid(name, "must be None, empty or zeros", _described(value), _CHANGING[name])
        else:
            remedy = "leave it out, or wrap the adapter if it cannot change the answer"
            raise invalid(name, "must be an argument that is known here", _described(value), remedy)


def _says_nothing(value: Any) -> bool:
    """Return whether a condition is absent, or all zeros."""
    if value is None or (isinstance(value, (int, float)) and value == 0):
        return True
    if isinstance(value, Tensor):
        # compiled code reads no values
        return not unreadable(value) and not bool(value.any())
    if isinstance(value, Mapping):
        # the scale of LoRA weights, which an oracle has none of
        return all(name == "scale" or _says_nothing(item) for name, item in value.items())
    return isinstance(value, (list, tuple)) and not value


def _described(value: Any) -> str:
    """Return a condition in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)
