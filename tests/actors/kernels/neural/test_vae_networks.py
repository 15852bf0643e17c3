"""The process's torch generators, which users' networks draw from."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch

from actors.kernels.neural.vae_networks import build, seeded


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
