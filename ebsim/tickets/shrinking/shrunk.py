"""`Shrunk`, the shrunk network: layers under their old names, a graph per mode, selections between layers."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ebsim.errors import CompactError
from ebsim.tickets.mask import ChannelMask
from ebsim.tickets.shrinking.select import Select
from ebsim.tickets.shrinking.tracing.calls import ForwardCall

SELECTIONS = "selections"


class Shrunk(nn.Module):
    """A shrunk network: the dense network's layers under their old names, fewer channels, and selections between.

    mask: what it was shrunk to. notes: what it lacks, and operations that still get all channels. call, example: the
    arguments it was traced with and the tensors among them, shapes and types only. graph: the torch.fx graph of the
    current mode. Its state_dict holds compact weights only. It can be copied, pickled, traced again and exported.
    A part of the network that is called mask, notes, call or example is what the name gives; `mask_of(shrunk)` is the
    mask then.
    """

    if TYPE_CHECKING:
        mask: ChannelMask
        notes: tuple[str, ...]
        call: ForwardCall
        graph: fx.Graph
        example: tuple[Tensor, ...]

    def __init__(
        self,
        root: nn.Module,
        graphs: dict[bool, fx.Graph],
        selections: Mapping[str, nn.Module],
        mask: ChannelMask,
        call: ForwardCall,
        stay: Mapping[bool, tuple[str, ...]],
    ) -> None:
        super().__init__()
        nodes = [n for g in graphs.values() for n in g.nodes]
        called = {str(n.target) for n in nodes if n.op == "call_module"}
        for name, module in list(root.named_modules()):  # in the dense order: masks of the shrunk network are in it too
            if name in called and not isinstance(module, Select):  # those are of an earlier shrinking
                if any(f"{name}.{part}" in called for part, _ in module.named_modules() if part):
                    module._modules.clear()  # a layer with layers inside that are called by themselves
                _attach(self, name, module)
        saved = root.state_dict().keys()
        for name in dict.fromkeys(str(n.target) for n in nodes if n.op == "get_attr"):
            _attach(self, name, operator.attrgetter(name)(root), name in saved)
        for name in (SELECTIONS, *_OWN):
            if name in self._modules:
                raise CompactError(f"the network has a part named {name!r}, a name that shrinking needs; rename it")
        picks = {name: pick for name, pick in selections.items() if f"{SELECTIONS}.{name}" in called}
        self.add_module(SELECTIONS, nn.ModuleDict(picks))
        self._lacks = _keep_attributes(self, root)
        self._mask = mask
        self._notes: tuple[str, ...] = ()
        self._call = call.with_tensors([torch.empty_like(t, device="meta") for t in call.tensors])
        self._graphs = graphs
        known = {name for name, _ in self.named_modules()}
        self._stay = {mode: tuple(name for name in names if name in known) for mode, names in stay.items()}
        self._compile()

    def train(self, mode: bool = True) -> Shrunk:
        """As the dense network's own `train`: what that leaves in evaluation mode (frozen BatchNorm) stays in it."""
        super().train(mode)
        for name in self._stay[bool(mode)]:
            self.get_submodule(name).training = not mode
        return self

    def _compile(self) -> None:
        """Make `forward` from the graphs, with the arguments that they name."""
        self._forwards: dict[bool, Callable[..., Any]] = {
            mode: type(fx.GraphModule(self, graph)).forward for mode, graph in self._graphs.items()
        }
        self.__class__ = _class_with(self._call.names if self._call.plain else ())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _FACTS:
                return _FACTS[name](self)
            if name in vars(self).get("_lacks", ()):
                raise AttributeError(
                    f"{name!r} belongs to the class of the dense network; the shrunk network has its layers and "
                    "numbers, and a graph in the place of its methods"
                ) from None
            raise

    def __reduce__(self) -> Any:
        state = {k: v for k, v in vars(self).items() if k not in ("_forwards", "_graphs")}
        one, other = self._graphs[True], self._graphs[False]
        records = [_record(graph) for graph in ([one] if one is other else [one, other])]
        return _rebuilt, (), (state, records)

    def __setstate__(self, state: Any) -> None:
        values, records = state
        vars(self).update(values)
        graphs = [_graph(record) for record in records]
        self._graphs = {True: graphs[0], False: graphs[-1]}
        self._compile()

    def __deepcopy__(self, memo: dict[int, Any]) -> Shrunk:
        import copy

        new = _rebuilt()
        memo[id(self)] = new
        skipped = ("_forwards", "_graphs")
        vars(new).update({k: copy.deepcopy(v, memo) for k, v in vars(self).items() if k not in skipped})
        new._graphs, new._forwards, new.__class__ = self._graphs, self._forwards, self.__class__
        return new


_OWN = ("graph", "code", "_mask", "_notes", "_call", "_lacks", "_stay", "_graphs", "_forwards", "_compile")
_FACTS: dict[str, Callable[[Any], Any]] = {
    "mask": lambda shrunk: shrunk._mask,
    "notes": lambda shrunk: shrunk._notes,
    "call": lambda shrunk: shrunk._call,
    "graph": lambda shrunk: shrunk._graphs[shrunk.training],
    "example": lambda shrunk: tuple(shrunk._call.tensors),
}


def mask_of(shrunk: Shrunk) -> ChannelMask:
    """What a network was shrunk to, also where it has a part of the name `mask`."""
    return shrunk._mask


def _keep_attributes(new: nn.Module, root: nn.Module) -> frozenset[str]:
    """Carry over the dense network's own plain attributes; returns the names of what stays behind."""
    own = {
        k: v for k, v in vars(root).items() if not k.startswith("_") and k not in (*vars(new), *_FACTS) and _plain(v)
    }
    vars(new).update(own)
    public = {name for name in (*dir(type(root)), *vars(root)) if not name.startswith("_")}
    return frozenset(public - set(dir(nn.Module)) - set(own) - set(root._modules) - set(_FACTS))


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(part) for part in value)
    if isinstance(value, dict):
        return all(_plain(part) for part in (*value, *value.values()))
    return value is None or isinstance(value, str | bool | int | float)


def _rebuilt() -> Shrunk:
    return Shrunk.__new__(Shrunk)


@functools.cache
def _class_with(names: tuple[str, ...]) -> type[Shrunk]:
    """The class with these arguments of forward; torch.fx and torch.export read them off the function."""
    return type("Shrunk", (Shrunk,), {"forward": _by_mode(names), "__module__": __name__})


def _by_mode(names: tuple[str, ...]) -> Any:
    """def forward(self, <names>): the graph of the current mode."""
    patterns: dict[int, Any] = {
        1: lambda self, a: self._forwards[self.training](self, a),
        2: lambda self, a, b: self._forwards[self.training](self, a, b),
        3: lambda self, a, b, c: self._forwards[self.training](self, a, b, c),
        4: lambda self, a, b, c, d: self._forwards[self.training](self, a, b, c, d),
    }
    if len(names) not in patterns:
        return lambda self, *args, **kwargs: self._forwards[self.training](self, *self._call.tensors_of(args, kwargs))
    code = patterns[len(names)].__code__.replace(co_varnames=("self", *names), co_name="forward")
    return types.FunctionType(code, globals(), "forward")


def _record(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as plain data: op, name, target, arguments; references to nodes by name."""

    def named(value: Any) -> Any:
        refer: Any = lambda n: _Ref(n.name)  # noqa: E731
        return fx.node.map_arg(value, refer)

    return [(n.op, n.name, _by_name(n.target), named(n.args), named(n.kwargs)) for n in graph.nodes]


def _by_name(target: Any) -> Any:
    """Functions of torch.nn.functional that are made in another one (max_pool2d, ...) by name, others themselves."""
    if "<locals>" not in getattr(target, "__qualname__", ""):
        return target
    return next((_Ref(name) for name, value in vars(F).items() if value is target), target)


def _graph(record: list[tuple[Any, ...]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def node(value: Any) -> Any:
        return nodes[value.name] if isinstance(value, _Ref) else value

    for op, name, stored, args, kwargs in record:
        target = getattr(F, stored.name) if isinstance(stored, _Ref) else stored
        filled: Any = [fx.node.map_aggregate(part, node) for part in (args, kwargs)]
        nodes[name] = graph.create_node(op, target, filled[0], filled[1], name=name)
    return graph


class _Ref:
    """A reference to a node of a stored graph, or to a function of torch.nn.functional."""

    def __init__(self, name: str) -> None:
        self.name = name


def _attach(root: nn.Module, name: str, value: Any, persistent: bool = True) -> None:
    """Put a module, parameter or buffer at a dotted name, with plain modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        if last not in root._buffers:
            root.register_buffer(last, value, persistent)
    else:
        setattr(root, last, value)
