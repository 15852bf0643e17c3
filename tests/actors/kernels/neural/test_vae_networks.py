"""The process's torch generators, which users' networks draw from, and terms of the bound."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch

from actors.kernels.neural import vae_networks
from actors.kernels.neural.vae_networks import build, elbo_sums, encode, reconstruct, seeded


def test_what_one_thread_draws_does_not_depend_on_what_other_threads_seed_and_build():
    with seeded(1):
        expected = [torch.rand(3), torch.rand(3)]
    drawn, inside = [], Event()

    def draw():
        with seeded(1):
            drawn.append(torch.rand(3))
            inside.set()
            pause.wait(0.2)  # the other thread would seed now
            drawn.append(torch.rand(3))

    def interfere():
        inside.wait()
        build(4, 3, 2, seed=2)

    pause = Event()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(interfere)
        pool.submit(draw).result()
        other.result()
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_the_generators_go_on_afterwards_as_if_nothing_had_been_seeded():
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    with seeded(1):
        torch.rand(2)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("rows", [1, 70, 200])  # fewer and more than are added at once
def test_the_reconstruction_loss_of_the_default_networks_is_that_of_its_definition(likelihood, rows, monkeypatch):
    monkeypatch.setattr(vae_networks, "CHUNK", 150)
    networks, generator = build(11, 8, 3, seed=1), torch.Generator().manual_seed(rows)
    networks["decoder"].out.bias.data += torch.linspace(-120, 120, 11)  # logits of any size
    pixels = torch.rand(rows, 11, generator=generator)
    encoded = tuple(torch.randn(rows, 3, generator=generator) for _ in range(2))
    noise = torch.randn(rows, 3, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        y = networks["decoder"](encoded[0] + (0.5 * encoded[1]).exp() * noise).double().numpy()
    x = pixels.double().numpy()
    expected = (np.logaddexp(0, y) - x * y).sum() if likelihood == "bce" else 0.5 * ((y - x) ** 2).sum()
    prior, given = torch.zeros(rows, 3), torch.Generator().manual_seed(7)
    assert elbo_sums(networks, pixels, prior, encoded, likelihood, given)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("rows", [0, 1, 150, 310])
def test_reconstructions_are_written_into_memory_that_is_given(likelihood, rows, monkeypatch):
    monkeypatch.setattr(vae_networks, "CHUNK", 150)
    networks = build(11, 8, 3, seed=1)
    latents, _ = encode(networks, torch.rand(rows, 11)) if rows else (torch.empty(0, 3), None)
    into = torch.full((rows, 11), torch.nan)
    assert reconstruct(networks, latents, likelihood, into) is into
    with torch.no_grad():
        logits = networks["decoder"](latents)
    expected = torch.sigmoid(logits) if likelihood == "bce" else logits
    torch.testing.assert_close(into, expected)
    torch.testing.assert_close(reconstruct(networks, latents, likelihood), expected)
