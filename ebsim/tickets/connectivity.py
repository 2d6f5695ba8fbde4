"""Which convolutions make the channels of a BatchNorm layer, and which layers read them; from the traced graph.

Traced by torch.fx alone, which needs no example input: the tracer of `shrinking` runs the network on one, and scores
and methods ask this of a model alone. Between them may stand whatever keeps channels apart (activation, pooling,
flattening, addition of equal channels).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.errors import ConfigError

_MIXES = (_ConvNd, nn.Linear)


def producers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """BatchNorm layer -> the convolutions and linear layers whose outputs, added up, are its input."""
    found = {}
    for node, module in _norms(model):
        names = dict.fromkeys(name for name in _upstream(node.all_input_nodes[0], model))
        found[str(node.target)] = tuple(n for n in names if _outputs(model.get_submodule(n)) == module.num_features)
    return found


def filters(model: nn.Module) -> dict[str, str]:
    """BatchNorm layer -> the convolution in front of it, where nothing else reads that convolution."""
    before = ((node, node.all_input_nodes[0]) for node, _ in _norms(model))
    return {
        str(node.target): str(source.target)
        for node, source in before
        if isinstance(_module(source, model), _ConvNd) and set(source.users) == {node}
    }


def reader(model: nn.Module) -> dict[str, str | None]:
    """BatchNorm layer -> the one convolution or linear layer that reads it, None where anything else does too."""
    found = {}
    for node, _ in _norms(model):
        names = list(_downstream(node, model))
        found[str(node.target)] = names[0] if len(names) == 1 else None
    return found


def _norms(model: nn.Module) -> Iterator[tuple[fx.Node, _BatchNorm]]:
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be traced ({error}), so it is unknown which layers its channels connect. "
            'Rank channels by "gamma" or "taylor", which do not need that.'
        ) from error
    for node in graph.nodes:
        module = _module(node, model)
        if isinstance(module, _BatchNorm) and module.affine:
            yield node, module


def _module(node: fx.Node, model: nn.Module) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _outputs(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else getattr(module, "out_channels", 0)


def _upstream(node: fx.Node, model: nn.Module) -> Iterator[str]:
    if isinstance(_module(node, model), _MIXES):
        yield str(node.target)
        return
    for source in node.all_input_nodes:
        yield from _upstream(source, model)


def _downstream(node: fx.Node, model: nn.Module) -> Iterator[str | None]:
    for user in node.users:
        if isinstance(_module(user, model), _MIXES):
            yield str(user.target)
        elif user.op == "output" or len(user.all_input_nodes) > 1:
            yield None
        else:
            yield from _downstream(user, model)
