"""sfp: soft filter pruning; filters are set to zero after every epoch, but may grow back in the next one.

Idea: hard pruning cannot take back a wrong choice. Zero the weakest filters of each layer after every epoch and go on
training all of them; only after the last epoch are the zeros cut out.

Equation: after each epoch, in every layer, the int(p n) filters with the smallest L2 norm become 0.

Source: He et al., Soft Filter Pruning for Accelerating Deep CNNs, IJCAI 2018 (arXiv 1808.06866).

Options: pretrained = start from the dense network of epoch N (N more epochs are charged, as in the EB paper's Table 3)
instead of from scratch.

Deviations: plain momentum where the authors' code uses Nesterov's, so that methods share one recipe. Their code
also zeroes the weakest filters once before the first epoch, which is left out: with a BatchNorm shift of zero the ReLU
passes no gradient to such a filter, it never comes back, and the choice is the initialization's. After the last epoch
scale and shift of the filter's BatchNorm channel become zero with it, and the headline is that network's, so that the
cut changes nothing (theirs is measured before the cut, which loses the shift). Filters that anything but their own
BatchNorm reads (the residual stream of PreResNet) are left alone. The EB paper charges SFP's second training at the
pruned network's FLOPs, here what is executed is charged, the dense network's.

Beware of short epochs: BatchNorm amplifies a filter that has just grown back, however small it is, so that the network
leans on filters that the last cut takes away. With a few dozen steps an epoch that costs many points.
"""

from __future__ import annotations

from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import soft
from ebsim.experiment.training_stages import dense_training
from ebsim.tickets import ChannelMask


def run(context: ExperimentContext, ratio: float, pretrained: bool = False) -> MethodResult:
    """Train with soft pruning for N epochs, then cut out what is zero."""
    name, label = ("sfp-pretrained", "SFP (pre-trained)") if pretrained else ("sfp", "SFP")
    result = MethodResult(name, label, ratio, *context.precisions())
    start = None
    if pretrained:
        start = dense_training(context, result.search_precision)
        start.train()
        result.trajectory = start.stage
        result.ledger.append(start.ledger("dense"))
    else:
        result.search_precision = result.retrain_precision

    softened = soft(context, ratio, start, result.retrain_precision)
    mask = ChannelMask((softened.trajectory.gammas[context.epochs] != 0).numpy(), context.layers)
    result.record_final_training(softened, "soft pruning", mask)
    result.network = context.workload(context.ticket_key(mask), lambda: context.shrunk(mask))
    return result
