"""Muon of the bench: what it does to convolutions, and that the rest is Adam."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.train.muon import ConvMuon, orthogonal

RATE = 0.01


@pytest.mark.parametrize('shape', [(8, 72), (72, 8)])
def test_singular_values_come_near_1_and_singular_vectors_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, values, right = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert 0.65 < values.min() < values.max() < 1.25
    before = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(left @ right, before[0] @ before[2], atol=0.05)


def test_convolutions_step_along_an_orthogonal_matrix_and_the_rest_is_adam():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3)).to(
        memory_format=torch.channels_last
    )
    network(torch.randn(1, 3, 8, 8)).square().mean().backward()
    by_adam = copy.deepcopy(network)
    for of_one, of_other in zip(network.parameters(), by_adam.parameters()):
        of_other.grad = of_one.grad.clone()
    before = network[0].weight.detach().clone()
    ConvMuon(network.parameters(), lr=RATE, betas=(0.9, 0.99)).step()
    torch.optim.Adam(by_adam.parameters(), lr=RATE, betas=(0.9, 0.99)).step()
    assert torch.equal(network[1].weight, by_adam[1].weight)  # three outputs
    assert torch.equal(network[0].bias, by_adam[0].bias)
    moved = (before - network[0].weight.detach()).flatten(1)  # the first step is along the gradient
    assert torch.allclose(moved, orthogonal(network[0].weight.grad.flatten(1)) * RATE * 0.2 * 27**0.5, atol=1e-6)
    assert network[0].weight.grad is not None


def test_momentum_is_kept_from_step_to_step_and_in_the_state():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = ConvMuon([weight], lr=RATE)
    for gradient in (torch.eye(4), torch.zeros(4, 4)):
        weight.grad = gradient
        optimizer.step()
    (kept,) = optimizer.state_dict()['state'].values()
    assert torch.allclose(kept['momentum'], torch.eye(4) * 0.05 * 0.95)
    assert weight[0, 0] < -1.2 * RATE * 0.2 * 2  # the second step goes on by the momentum
