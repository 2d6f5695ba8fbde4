"""Cost of one forward pass of a graph in MACs and moved elements, to compare exact forms of one ticket.

An element moved is weighed as 139 MACs: a 32-bit DRAM access against a 32-bit floating-point multiply-accumulate at
45 nm (640 pJ against 4.6 pJ; Horowitz, ISSCC 2014). Every operation reads its tensors and writes its result; views move
nothing. A training step costs about three times that, in every form alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from ebsim.tickets.shrinking.shrunk import Shrunk
from ebsim.tickets.shrinking.tracing.calls import ForwardCall

MOVED = 139


class ForwardCost(NamedTuple):
    """MACs and elements moved of one forward pass of the example."""

    macs: int
    elements: int

    @property
    def total(self) -> int:
        return self.macs + MOVED * self.elements


class _Counting(fx.Interpreter):
    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.macs = self.elements = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op.startswith("call_"):
            inputs = [self.env[i] for i in n.all_input_nodes if isinstance(self.env.get(i), Tensor)]
            outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
            owned = {t.untyped_storage()._cdata for t in inputs}
            if n.op == "call_module" or any(t.untyped_storage()._cdata not in owned for t in outputs):
                self.elements += sum(t.numel() for t in (*inputs, *outputs))
        if n.op == "call_module" and isinstance(result, Tensor):
            self.macs += _macs(self.fetch_attr(str(n.target)), result)
        return result


def _macs(module: nn.Module, result: Tensor) -> int:
    if isinstance(module, _ConvNd) and module.transposed:
        return result.numel() * module.weight[:, 0].numel() // (module.groups * module.stride[0] ** (result.ndim - 2))
    if isinstance(module, _ConvNd | nn.Linear):
        return result.numel() * module.weight[0].numel()
    return 0


def cost(network: Shrunk, call: ForwardCall) -> ForwardCost:
    """Of one sample in evaluation mode, where the example's batch can be cut down to one."""
    one = call.with_batch(1) if not _reads_batch(network) else call
    mode = network.training
    network.eval()
    counter = _Counting(network, network._graphs[False])
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        counter.run(*(fake.from_tensor(t) for t in one.tensors))
    network.train(mode)
    return ForwardCost(counter.macs, counter.elements)


def _reads_batch(network: Shrunk) -> bool:
    return any(getattr(n.target, "__name__", "") == "expect" for n in network._graphs[False].nodes)
