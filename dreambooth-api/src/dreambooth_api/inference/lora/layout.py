"""Which layers of a network can carry adapters, grouped so that equal ones are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one weight shape that play the same part in the network.

    The first dimension of everything that is stacked for a group counts its layers in the order of *names*.
    *bundle* neighbours at a time share their input: query, key and value of one self-attention, or key and
    value of one cross-attention.
    """

    role: str
    #: Of one layer's weight: (out, in) or (out, in, height, width).
    shape: tuple[int, ...]
    names: tuple[str, ...]
    bundle: int = 1

    @property
    def is_linear(self) -> bool:
        return len(self.shape) == 2

    @property
    def in_attention(self) -> bool:
        """Whether they are projections of attentions, which most adapters change and nothing else."""
        return "attn" in self.role or self.role in (SELF_PROJECTIONS, CROSS_KEYS_VALUES)

    @property
    def outputs(self) -> int:
        """Numbers that one layer gives for each position."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Numbers that one layer takes for each, a convolution's window included."""
        size = 1
        for side in self.shape[1:]:
            size *= side
        return size


@dataclass
class _Draft:
    bundle: int
    names: list[str] = field(default_factory=list)


def group_layers(network: nn.Module) -> tuple[LayerGroup, ...]:
    """The groups of *network*'s linear layers and convolutions; always the same for the same architecture.

    To be asked before peft wraps any layer: what it wraps has another name then.
    """
    drafts: dict[tuple[str, tuple[int, ...], tuple[int, ...]], _Draft] = {}
    bundled: set[str] = set()
    for name, module in network.named_modules():
        for role, members in _bundles(name, module):
            bundled.update(members)
            weight = layer_named(network, members[0]).weight
            draft = drafts.setdefault((role, tuple(weight.shape), ()), _Draft(len(members)))
            draft.names += members
    for name, module in network.named_modules():
        if name in bundled or not isinstance(module, Layer) or not _is_plain(module):
            continue
        geometry = (*module.stride, *module.padding) if isinstance(module, nn.Conv2d) else ()
        key = (_role(name), tuple(module.weight.shape), geometry)
        drafts.setdefault(key, _Draft(1)).names.append(name)
    return tuple(
        LayerGroup(role, shape, tuple(draft.names), draft.bundle)
        for (role, shape, _), draft in drafts.items()
    )


def layer_named(network: nn.Module, name: str) -> Layer:
    """The linear layer or convolution at the path *name*."""
    layer = network.get_submodule(name)
    assert isinstance(layer, Layer)
    return layer


def _is_plain(layer: Layer) -> bool:
    """Whether it computes what its class of torch does (a quantised one does not), in the way that adapters
    of the field know: no grouped, dilated or oddly padded convolution.
    """
    kind = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    if type(layer).forward is not kind.forward and getattr(layer, "computes_as", None) is not kind:
        return False
    return isinstance(layer, nn.Linear) or (
        layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    )


def _bundles(name: str, module: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Projections of an attention that share their input, with their role."""
    found = [getattr(module, part, None) for part in ("to_q", "to_k", "to_v")]
    projections = [one for one in found if isinstance(one, nn.Linear) and _is_plain(one)]
    if len(projections) < 3 or any(one.bias is not None for one in projections):
        return
    query, key, value = projections
    if getattr(module, "is_cross_attention", False):
        if key.weight.shape == value.weight.shape:
            yield CROSS_KEYS_VALUES, [f"{name}.to_k", f"{name}.to_v"]
    elif query.weight.shape == key.weight.shape == value.weight.shape:
        yield SELF_PROJECTIONS, [f"{name}.to_q", f"{name}.to_k", f"{name}.to_v"]


#: Query, key and value of a self-attention.
SELF_PROJECTIONS = "self-attention.to_qkv"
#: Key and value of a cross-attention, which depend on the text alone.
CROSS_KEYS_VALUES = "cross-attention.to_kv"


def _role(name: str) -> str:
    """A layer's name from its block on, without the block's number."""
    return ".".join(part for part in name.split(".")[-4:] if not part.isdigit())
