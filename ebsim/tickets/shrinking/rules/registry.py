"""Which operation has which rule: the whole table, to be read and extended.

Key: the function, the name of the tensor method, the type of the module, or "module.function" for one that cannot be
imported here. The first rule of the tuple that accepts the node is taken, else the conservative one.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ebsim.tickets.shrinking.rules.base import Rule
from ebsim.tickets.shrinking.rules.channel_moves import Cat, ChannelPad, Move, MoveOn, Selection
from ebsim.tickets.shrinking.rules.elementwise import (
    Add,
    ByNumber,
    ExpandAs,
    Lift,
    Mul,
    Noise,
    PReLU,
    Reduce,
    Same,
    SpatialPad,
    SpatialSlice,
)
from ebsim.tickets.shrinking.rules.shape_reads import Size, SizeItem
from ebsim.tickets.shrinking.rules.weighted_layers import Mix, Norm, PerChannel
from ebsim.tickets.shrinking.select import Select

CONSERVATIVE = Rule()
_NOISE = (Noise(),)
_SAME, _LIFT, _MOVE, _REDUCE, _MIX = (Same(),), (Lift(),), (Move(),), (Reduce(),), (Mix(),)
_ADD, _MUL, _BY, _CAT = (Add(), Lift()), (Mul(), Same()), (ByNumber(), Lift()), (Cat(),)


def _each(rules: tuple[Rule, ...], *keys: Any) -> dict[Any, tuple[Rule, ...]]:
    return dict.fromkeys(keys, rules)


RULES: dict[Any, tuple[Rule, ...]] = {
    **_each((Norm(),), nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    **_each(_MIX, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    **_each(_MIX, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    **_each((PReLU(), PerChannel()), nn.PReLU),
    Select: (Selection(),),
    # zero stays zero
    **_each(
        _SAME,
        nn.Identity,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.CELU,
        nn.SELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Tanh,
    ),
    **_each(_SAME, nn.Hardswish, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
    **_each(_NOISE, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    **_each(_NOISE, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
    **_each(_SAME, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    **_each(_SAME, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    **_each(_SAME, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    **_each(_SAME, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d),
    **_each(_SAME, nn.ReplicationPad2d),
    **_each(_SAME, torch.relu, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.tanh),
    **_each(_SAME, torch.tanh, torch.abs, torch.neg, operator.neg, torch.clone, torch.square, torch.sign),
    **_each(_SAME, F.max_pool2d, F.avg_pool2d, torch.max_pool2d),
    **_each(_SAME, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, torch.adaptive_avg_pool1d),
    **_each(_SAME, "relu", "tanh", "abs", "neg", "clone", "float", "double", "half", "bfloat16", "detach", "square"),
    # zero may become something else
    **_each(_LIFT, nn.Sigmoid, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.LogSigmoid, nn.Threshold),
    **_each(_LIFT, torch.sigmoid, F.sigmoid, F.hardsigmoid, F.hardtanh, F.softplus, F.threshold, torch.clamp),
    **_each(_LIFT, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.pow, operator.pow),
    **_each(_LIFT, "sigmoid", "exp", "log", "sqrt", "rsqrt", "pow", "clamp", "reciprocal"),
    # two tensors, or a tensor and a number
    **_each(_ADD, operator.add, torch.add, "add", operator.sub, torch.sub, "sub", torch.maximum, torch.minimum),
    **_each(_MUL, operator.mul, torch.mul, "mul"),
    **_each(_BY, operator.truediv, torch.div, torch.true_divide, "div"),
    **_each((ExpandAs(),), "expand_as"),
    # channels put together and taken apart
    **_each(_CAT, torch.cat, torch.concat, torch.concatenate),
    **_each(_MOVE, "view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"),
    **_each(_MOVE, "chunk", "split", "narrow", "swapaxes", "movedim", torch.flatten, torch.reshape, torch.permute),
    **_each(_MOVE, torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.narrow),
    **_each(_MOVE, torch.unflatten, torch.swapaxes, torch.movedim),
    **_each(_MOVE, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, F.channel_shuffle, torch.channel_shuffle),
    "contiguous": (MoveOn(), Same()),
    operator.getitem: (SizeItem(), SpatialSlice(), Move()),
    # over the maps
    **_each(_REDUCE, torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"),
    "torchvision.ops.stochastic_depth.stochastic_depth": _SAME,
    F.pad: (SpatialPad(), ChannelPad()),
    **_each((Size(),), getattr, "size", "dim", "ndimension"),
}
