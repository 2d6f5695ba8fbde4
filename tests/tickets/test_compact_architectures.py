"""compact on kinds of network that people train, and on networks of timm and torchvision, as they come."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ebsim.tickets import channel_mask
from ebsim.torchvision_shim import import_torchvision
from tests.oracle.masked import assert_same, randomise
from tests.tickets.architectures import IMAGES, SERIES, image, series


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", IMAGES | SERIES)
def test_kinds_of_network(name):
    torch.manual_seed(3)
    model = randomise((IMAGES | SERIES)[name]())
    shrunk = assert_same(model, channel_mask(model, 0.5), image() if name in IMAGES else series())
    assert parameters(shrunk) < 0.9 * parameters(model)


# name -> image side; small ones where the network takes them, since float64 and gradients are compared
TIMM = {
    "test_byobnet": 64, "halonet_h1": 256, "test_coatnet": 160, "convmixer_768_32": 64, "cpubone_nano": 64,
    "cs3darknet_focus_s": 64, "cspnext_tiny": 64, "densenet121": 64, "dla46x_c": 64, "dpn48b": 64, "dpn68": 64,
    "ese_vovnet19b_slim_dw": 64, "test_resnet": 64, "resnet18": 64, "resnet26d": 64, "resnext26ts": 64,
    "ecaresnet26t": 64, "seresnet33ts": 64, "gcresnext26ts": 64, "efficientformer_l1": 224,
    "efficientformerv2_s0": 224, "tinynet_e": 64, "efficientnet_b0": 64, "tf_efficientnet_b0": 64, "mixnet_s": 64,
    "mnasnet_small": 64, "mobilenetv2_050": 64, "spnasnet_100": 64, "efficientvim_m1": 224, "efficientvit_b0": 64,
    "efficientvit_m0": 224, "fasternet_t0": 64, "fastvit_t8": 64, "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64, "ghostnet_050": 64, "ghostnetv2_100": 64, "hardcorenas_b": 64, "hgnetv2_b0": 64,
    "hrnet_w18_small": 64, "iformer_t": 224, "inception_next_atto": 64, "inception_resnet_v2": 107,
    "inception_v3": 107, "inception_v4": 107, "lcnetv2_small": 64, "lcnet_050": 64, "legacy_seresnet18": 64,
    "legacy_xception": 96, "levit_128s": 224, "lowformer_b0": 64, "mobilevit_xxs": 64, "mobilevitv2_050": 64,
    "nasnetalarge": 96, "nextvit_small": 64, "pnasnet5large": 96, "regnetx_002": 64, "regnety_002": 64,
    "repghostnet_050": 64, "repvgg_a0": 64, "mobileone_s0": 64, "repvit_m1": 64, "res2net50_14w_8s": 64,
    "res2next50": 64, "resnest14d": 64, "resnetv2_18": 64, "resnetv2_50": 64, "rexnet_100": 64, "selecsls42": 64,
    "shvit_s1": 224, "skresnet18": 64, "starnet_s050": 64, "swiftformer_xs": 224, "tiny_vit_5m_224": 224,
    "tresnet_m": 64, "visformer_tiny": 224, "vovnet39a": 64, "volo_d1_224": 224, "xception41p": 96,
    "xcit_nano_12_p8_224": 224, "botnet26t_256": 256, "lambda_resnet26t": 128, "semnasnet_075": 64, "fbnetv3_b": 64,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    import_torchvision("torchvision")
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = randomise(timm.create_model(name, num_classes=5))
    x = torch.randn(2, 3, TIMM[name], TIMM[name], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shrunk = assert_same(model, channel_mask(model, 0.5), x)
    assert parameters(shrunk) < parameters(model)


TORCHVISION = {
    "segmentation.fcn_resnet50": (3, 33, 33),
    "segmentation.deeplabv3_mobilenet_v3_large": (3, 65, 65),
    "segmentation.lraspp_mobilenet_v3_large": (3, 64, 64),
    "video.r3d_18": (3, 4, 32, 32),
    "video.mc3_18": (3, 4, 32, 32),
    "video.r2plus1d_18": (3, 4, 32, 32),
    "video.s3d": (3, 16, 224, 224),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_beyond_classification(name):
    module, _, function = name.partition(".")
    torch.manual_seed(0)
    kind = getattr(import_torchvision(f"torchvision.models.{module}"), function)
    options = {"weights_backbone": None} if module == "segmentation" else {}
    model = randomise(kind(weights=None, num_classes=4, **options))
    x = torch.randn(2, *TORCHVISION[name], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shrunk = assert_same(model, channel_mask(model, 0.5), x)
    assert parameters(shrunk) < 0.6 * parameters(model)


@pytest.mark.slow
def test_a_detection_backbone():
    """ResNet-18 with a feature pyramid: the levels as an OrderedDict."""
    utils = import_torchvision("torchvision.models.detection.backbone_utils")
    torch.manual_seed(0)
    model = randomise(
        utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    )
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shrunk = assert_same(model, channel_mask(model, 0.5), x)
    assert list(shrunk(x)) == ["0", "1", "2", "3", "pool"]
