"""The registry of channel rules: operation -> rule, to be read and extended.

Key: the function, the name of the tensor method, the type of the module, or "module.function" for one that cannot be
imported here. The first rule of the tuple that accepts the node is taken, else the conservative one. How to add: write
a subclass of `ChannelRule` beside those of its kind, and a line here.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ebsim.tickets.shrinking.rules.base import ChannelRule
from ebsim.tickets.shrinking.rules.channel_moves import (
    Cat,
    ChannelPad,
    PixelShuffle,
    PixelUnshuffle,
    Selection,
    Together,
)
from ebsim.tickets.shrinking.rules.elementwise import (
    Add,
    AlongOthers,
    ByFirst,
    ByNumber,
    ByType,
    Extreme,
    ExtremeValue,
    GatedHalf,
    Lift,
    LiftAlongOthers,
    LiftPair,
    Maps,
    Mul,
    Noise,
    PReLU,
    Reduce,
    Same,
    Sampled,
    SpatialPad,
    Where,
)
from ebsim.tickets.shrinking.rules.shape_reads import Fresh, FreshLike, Number, Size, SizesOf
from ebsim.tickets.shrinking.rules.views import Move, MoveOn, Parts
from ebsim.tickets.shrinking.rules.weighted_layers import Mix, Norm, PerChannel
from ebsim.tickets.shrinking.select import Select


class Collect(ChannelRule):
    """Builds an output structure: reads all channels as the output does."""

    quiet = True


CONSERVATIVE, NUMBER, COLLECT = ChannelRule(), Number(), Collect()
_NOISE = (Noise(),)
_SAME, _LIFT, _MOVE, _REDUCE, _MIX, _MAPS = (Same(),), (Lift(),), (Move(),), (Reduce(),), (Mix(),), (Maps(),)
_ADD, _MUL, _BY, _CAT = (Add(), Lift()), (Mul(), Same()), (LiftPair(), ByNumber(), Lift()), (Cat(), Together())
_PARTS, _OTHERS = (Parts(), Move()), (AlongOthers(),)


_COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")


def _each(rules: tuple[ChannelRule, ...], *keys: Any) -> dict[Any, tuple[ChannelRule, ...]]:
    return dict.fromkeys(keys, rules)


RULES: dict[Any, tuple[ChannelRule, ...]] = {
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
    **_each(_MAPS, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    **_each(_MAPS, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    **_each(_MAPS, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    **_each(_MAPS, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d),
    **_each(_MAPS, nn.ReplicationPad2d, nn.ReplicationPad1d, nn.ReflectionPad1d, nn.ZeroPad1d),
    **_each(_MAPS, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d),
    **_each(_SAME, torch.relu, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.tanh),
    **_each(_SAME, torch.tanh, torch.abs, torch.neg, operator.neg, torch.clone, torch.square, torch.sign),
    **_each(_SAME, torch.sin, torch.erf, torch.expm1, torch.log1p, torch.floor, torch.ceil, torch.round, torch.selu),
    **_each(_SAME, F.selu, F.celu, F.softsign, F.softshrink, F.hardshrink, F.tanhshrink, F.rrelu),
    **_each(_MAPS, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    **_each(_MAPS, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, torch.avg_pool1d),
    **_each(_MAPS, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d),
    **_each(_MAPS, F.interpolate, F.upsample, torch.adaptive_avg_pool1d),
    **_each(_SAME, "relu", "tanh", "abs", "neg", "clone", "float", "double", "half", "bfloat16", "detach", "square"),
    # zero may become something else
    **_each(_LIFT, nn.Sigmoid, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.LogSigmoid, nn.Threshold),
    **_each(_LIFT, torch.sigmoid, F.sigmoid, F.hardsigmoid, F.hardtanh, F.softplus, F.threshold, torch.clamp),
    **_each(_LIFT, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.pow, operator.pow),
    **_each(_LIFT, F.logsigmoid, torch.clip, "clip", torch.cos, "cos"),
    **_each(_LIFT, "sigmoid", "exp", "log", "sqrt", "rsqrt", "pow", "clamp", "reciprocal"),
    # two tensors, or a tensor and a number
    **_each(_ADD, operator.add, torch.add, "add", operator.sub, torch.sub, "sub", torch.maximum, torch.minimum),
    **_each(_ADD, torch.subtract, "subtract", "maximum", "minimum"),
    **_each(_MUL, operator.mul, torch.mul, "mul", torch.multiply, "multiply"),
    **_each(_BY, operator.truediv, torch.div, torch.true_divide, "div", "divide", "true_divide"),
    **_each((ByFirst(), SizesOf()), "expand_as"),
    **_each((LiftPair(), Lift()), *(getattr(of, name) for of in (operator, torch) for name in _COMPARED), *_COMPARED),
    **_each((Where(),), torch.where, "where", "masked_fill"),
    # channels put together and taken apart
    **_each(_CAT, torch.cat, torch.concat, torch.concatenate),
    torch.stack: (Together(),),
    **_each(_MOVE, "view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand"),
    **_each(
        _MOVE, "narrow", "swapaxes", "swapdims", "movedim", "moveaxis", "select", "index_select", "flip", "roll", "t"
    ),
    **_each((Move(), SizesOf()), "reshape_as", "view_as"),
    **_each(_MOVE, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze),
    **_each(_MOVE, torch.narrow, torch.unflatten, torch.swapaxes, torch.movedim, torch.select, torch.index_select),
    **_each(_MOVE, torch.flip, torch.roll, torch.t),
    **_each(_MOVE, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, F.channel_shuffle, torch.channel_shuffle),
    **_each(_PARTS, "chunk", "split", "unbind", "tensor_split", torch.chunk, torch.split, torch.unbind),
    **_each((PixelShuffle(),), nn.PixelShuffle, F.pixel_shuffle, torch.pixel_shuffle),
    **_each((PixelUnshuffle(),), nn.PixelUnshuffle, F.pixel_unshuffle, torch.pixel_unshuffle),
    **_each((GatedHalf(),), nn.GLU, F.glu),
    "contiguous": (MoveOn(), Same()),
    operator.getitem: (ExtremeValue(), Move()),
    # over the maps
    **_each(_REDUCE, torch.mean, torch.sum, torch.amax, torch.amin, torch.var, torch.std),
    **_each(_REDUCE, "mean", "sum", "amax", "amin", "var", "std"),
    **_each((Extreme(), Add()), torch.max, torch.min, "max", "min"),
    **_each((LiftAlongOthers(),), torch.softmax, F.softmax, F.log_softmax, "softmax", nn.Softmax, nn.LogSoftmax),
    **_each(_OTHERS, torch.cumsum, "cumsum"),
    "torchvision.ops.stochastic_depth.stochastic_depth": _SAME,
    F.pad: (SpatialPad(), ChannelPad()),
    F.grid_sample: (Sampled(),),
    "type_as": (ByType(),),
    getattr: (Size(), ExtremeValue(), Move()),
    **_each((Size(),), "size", "dim", "ndimension", "numel", "nelement", "is_contiguous", "get_device"),
    **_each((Fresh(),), "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"),
    **_each((FreshLike(),), torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like),
    **_each((FreshLike(),), torch.rand_like, torch.randn_like),
}
