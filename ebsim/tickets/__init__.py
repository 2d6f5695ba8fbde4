"""Early-Bird tickets: channel masks, the rule that says when to draw one, and the shrinking of a
network to it."""

from ebsim.tickets.compact import Shrinker, Shrunk, compact
from ebsim.tickets.connectivity import filters, producers, reader
from ebsim.tickets.criteria import CRITERIA, Criterion, Look
from ebsim.tickets.early_bird import EarlyBird, Emergence, distance_map, emergence
from ebsim.tickets.mask import (
    ChannelMask,
    apply_mask,
    bn_layers,
    channel_mask,
    gammas,
    masks_from_gammas,
    masks_from_scores,
)
from ebsim.tickets.ticket import load_ticket, save_ticket

__all__ = [
    "CRITERIA",
    "ChannelMask",
    "Criterion",
    "EarlyBird",
    "Emergence",
    "Look",
    "Shrinker",
    "Shrunk",
    "apply_mask",
    "bn_layers",
    "channel_mask",
    "compact",
    "distance_map",
    "emergence",
    "filters",
    "gammas",
    "load_ticket",
    "masks_from_gammas",
    "masks_from_scores",
    "producers",
    "reader",
    "save_ticket",
]
