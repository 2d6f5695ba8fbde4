"""A ticket on disk: comes back as it was, and says what is wrong with the file."""

from __future__ import annotations

import pytest
import torch

from ebsim import models
from ebsim.errors import ConfigError, DamagedError
from ebsim.tickets import channel_mask, compact, load_ticket, save_ticket
from tests.oracle.masked import randomise

ARCHITECTURE = {"name": "preresnet", "depth": 11, "classes": 4, "input_shape": [3, 8, 8]}
IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build(architecture):
    return models.build(**architecture)


@pytest.fixture
def ticket():
    model = randomise(build(ARCHITECTURE)).float()
    return compact(model, channel_mask(model, 0.5), IMAGES)


@pytest.fixture
def path(ticket, tmp_path):
    save_ticket(tmp_path / "t.safetensors", ticket, ticket.mask, ARCHITECTURE)
    return tmp_path / "t.safetensors"


def test_it_comes_back_bit_for_bit(ticket, path):
    again = load_ticket(path, build)
    assert again.mask == ticket.mask
    assert str(again.graph) == str(ticket.graph)
    before, after = ticket.state_dict(), again.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    for mode in (True, False):
        assert torch.equal(again.train(mode)(IMAGES), ticket.train(mode)(IMAGES))


def test_the_type_of_the_weights_comes_back_too(ticket, path):
    save_ticket(path, ticket.double(), ticket.mask, ARCHITECTURE)
    assert torch.equal(load_ticket(path, build)(IMAGES.double()), ticket(IMAGES.double()))


def test_only_its_own_mask_can_be_saved_with_it(ticket, tmp_path):
    other = channel_mask(build(ARCHITECTURE), 0.3)
    with pytest.raises(ConfigError, match="another mask"):
        save_ticket(tmp_path / "t.safetensors", ticket, other, ARCHITECTURE)


def test_a_damaged_ticket_is_named(path):
    whole = path.read_bytes()
    for i in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:i])
        with pytest.raises(DamagedError, match=r"t\.safetensors"):
            load_ticket(path, build)
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(DamagedError, match=r"t\.safetensors"):
            load_ticket(path, build)


def test_another_file_or_another_network_is_refused(ticket, path):
    with pytest.raises(DamagedError, match="does not fit the network"):
        load_ticket(path, lambda architecture: build({**architecture, "depth": 20}))
    with pytest.raises(DamagedError, match="does not fit the network"):
        load_ticket(path, lambda architecture: build({**architecture, "classes": 7}))
    ticket.mask.save(path)
    with pytest.raises(DamagedError, match="channel mask"):
        load_ticket(path, build)
