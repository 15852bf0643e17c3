"""The VAE on rows that workers share: the same bits for any number of them, and the learning of the one process."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError, NonFiniteError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.module import Context, Inbox
from actors.sharing.chunks import Extent
from actors.sharing.driver import learn, open_group, respond, start_on_sample
from actors.sharing.shard import join_outputs
from actors.storage.checkpoints import Checkpoints
from tests.faults.runs import digests
from tests.support.toy_modules import same_arrays
from tests.support.vae_data import PIXELS, D, call, class_means, images, latent_means, make_vae, observations

pytestmark = pytest.mark.usefixtures("one_thread")

N, SIZE = 500, 64
MASK = (np.arange(N) % 7 == 2) | (np.arange(N) // SIZE == 3)  # a whole chunk is missing, too
GAPS = (np.random.default_rng(2).random((N, *PIXELS)) < 0.3) | MASK[:, None, None]
CUTS = [[], [4], [1, 6], [1, 2, 3, 7], list(range(1, 8))]
ENCODER = "tests.actors.modules.test_vae:DropoutEncoder"


def cut_at(cuts, rows=N, size=SIZE):
    chunks = -(-rows // size)
    return [Extent(rows, size, first, last) for first, last in zip([0, *cuts], [*cuts, chunks], strict=True)]


def share(extents, *messages, learnt=None, vaes=None, context=None, **parameters):
    """Let a group of workers run a call; return the parameters, the joined outputs and the metrics."""
    context = context or Context("vae")
    vaes = vaes or [make_vae(**parameters) for _ in extents]
    workers, shards = open_group(vaes, Inbox(messages), extents, context)
    try:
        learnt = learnt or start_on_sample(vaes[0], shards, context, 200)
        learnt, sweep = learn(workers, learnt) if context.mode == "update" else (learnt, 0)
        answers, metrics = respond(workers, learnt, sweep)
        answers, metrics = [workers.get(answer) for answer in answers], workers.get(metrics)
        learnt = workers.get(learnt)
    finally:
        workers.close()
    outputs = join_outputs(vaes[0], [a.outputs for a in answers])
    for number, (sent, *_) in enumerate(zip(*(a.messages for a in answers), strict=True)):
        for name in set(sent.arrays) - {"lengths"}:
            outputs[f"{sent.port}.{name}"] = np.concatenate([a.messages[number].arrays[name] for a in answers])
    return learnt, outputs, metrics


def prior(seed=0, rows=N):
    """Return class means with responsibilities."""
    generator = np.random.default_rng(seed)
    return class_means(generator.normal(size=(4, D)), generator.dirichlet(np.ones(4), rows))


def two_updates(extents, rows, above, **parameters):
    """Return all results of two updates, the second of which continues from a state that was written and read."""
    vaes, observed = [make_vae(**parameters) for _ in extents], observations(images(rows=N), **rows)
    learnt, outputs, metrics = share(extents, observed, *above, vaes=vaes)
    state = {name: np.array(value) for name, value in learnt.items() if name != "progress"}
    for value in state.values():
        value.flags.writeable = False
    context = Context("vae", round=1)
    later = share(extents, observed, prior(1), vaes=vaes, learnt=state, context=context)
    return {**learnt, **{f"2.{name}": value for name, value in later[0].items()}}, outputs, metrics, later[1], later[2]


@pytest.mark.parametrize(
    ("rows", "above", "parameters"),
    [
        pytest.param({}, (), {"batch_size": 60}, marks=pytest.mark.slow),
        ({"mask": MASK}, (prior(),), {"batch_size": 200, "send": "sample", "send_variance": True}),
        ({"mask": MASK}, (), {"batch_size": None, "patience": 2, "kl_warmup": 3, "likelihood": "mse"}),
        pytest.param(
            {"lengths": np.array([100, 250, 150])},
            (prior(),),
            {"restart_weights": True, "mixed_precision": True},
            marks=pytest.mark.slow,
        ),
        pytest.param({}, (), {"encoder": ENCODER, "batch_size": 200}, marks=pytest.mark.slow),
        ({"mask": GAPS}, (prior(),), {"batch_size": 200, "send": "sample"}),
        (
            {"mask": MASK},
            (prior(),),
            {"networks": "conv", "filters": [2, 4], "augment": {"shift": 1}, "class_weight": 3.0},
        ),
    ],
)
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(rows, above, parameters):
    alone = two_updates(cut_at(CUTS[0]), rows, above, epochs=3, **parameters)
    assert len(alone[0]["loss"]) == 3
    for cuts in CUTS[1:]:
        shared = two_updates(cut_at(cuts), rows, above, epochs=3, **parameters)
        for one, other in zip(alone, shared, strict=True):
            assert same_arrays(one, other)


def test_workers_in_threads_compute_with_as_many_threads_as_one_worker():
    # A new thread multiplies matrices with all cores until it asks torch for its number: other bits, of wide rows.
    observed = observations(np.random.default_rng(0).random((1000, 784)))
    given = {"hidden": 128, "batch_size": 500, "epochs": 1, "latent_dim": 18}
    one, two = (share(cut_at(cuts, 1000, 500), observed, **given) for cuts in ([], [1]))
    assert same_arrays(one[0], two[0])
    assert same_arrays(one[1], two[1])


@pytest.mark.parametrize(("size", "batch_size"), [(N, N), (SIZE, None), (SIZE, N)])
@pytest.mark.parametrize("above", [(), (prior(), latent_means(np.ones((N, D)), mask=MASK))])
@pytest.mark.parametrize("mask", [MASK, GAPS])
def test_a_pass_is_a_step_of_adam_on_the_loss_of_all_rows_of_the_batch(size, batch_size, above, mask):
    values, given = images(rows=N), {"batch_size": batch_size, "epochs": 3, "kl_weight": 0.5, "kl_warmup": 2}
    seen = ~np.broadcast_to(mask.reshape(N, *mask.shape[1:], *[1] * (3 - mask.ndim)), values.shape)
    values = np.where(seen, values, 0.0)
    learnt, _, _ = share(cut_at([], size=size), observations(values, mask=mask), *above, **given)
    networks = make_vae()._new_networks(16, Context("vae").torch_seed)
    adam, losses = torch.optim.Adam(networks.parameters(), lr=1e-3), []
    mu = np.zeros((N, D))
    if above:
        by_class = above[0]["responsibilities"] @ above[0]["means"]
        mu = np.where(MASK[:, None], by_class, (by_class + 1) / 2)
    for epoch in range(3):
        terms = [epoch_terms(networks, values, seen, mu, epoch, chunk, size) for chunk in range(-(-N // size))]
        loss, kl = (sum(each) for each in zip(*terms, strict=True))
        mean = (loss + 0.5 * min(epoch / 2, 1) * kl) / (~MASK).sum()
        adam.zero_grad()
        mean.backward()
        adam.step()
        losses.append(float(mean.detach()))
    np.testing.assert_allclose(learnt["loss"], losses, rtol=1e-5)
    for name, weight in networks.state_dict().items():
        np.testing.assert_allclose(learnt[f"weights.{name}"], weight, atol=2e-5, rtol=1e-4)


def epoch_terms(networks, values, seen, mu, epoch, chunk, size):
    """Return the terms of the loss of a chunk, by torch's own functions, where a pass is an epoch."""
    context = Context("vae", sweep=epoch, chunk=chunk)
    rows = np.arange(N)[chunk * size : (chunk + 1) * size]
    rows = context.generator.permutation(rows[~MASK[rows]])
    x = torch.tensor(values[rows].reshape(len(rows), 16), dtype=torch.float32)
    noise = torch.randn(len(rows), D, generator=torch.Generator().manual_seed(context.torch_seed))
    mean, log_variance = networks["encoder"](x)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    logits = networks["decoder"](mean + q.scale * noise)
    target = torch.distributions.Normal(torch.tensor(mu[rows], dtype=torch.float32), 1.0)
    weight = torch.tensor(seen[rows].reshape(len(rows), 16), dtype=torch.float32)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, weight, reduction="sum")
    return loss, torch.distributions.kl_divergence(q, target).sum()


@pytest.mark.parametrize("size", [100, pytest.param(4096, marks=pytest.mark.slow)])
def test_it_learns_as_well_as_in_one_process(size):
    digits = observations(load_digits().data[:1000] / 16.0)
    given = {"latent_dim": 8, "hidden": 64, "epochs": 30, "batch_size": 100}
    alone = call(make_vae(**given), digits)
    extents = cut_at([], rows=1000, size=size)
    _, outputs, metrics = share(extents, digits, **given)
    assert alone.outputs["loss"][-1] < 0.8 * alone.outputs["loss"][0]
    assert outputs["loss"][-1] == pytest.approx(alone.outputs["loss"][-1], rel=0.02)
    assert metrics["bound"] == pytest.approx(alone.metrics["bound"], rel=0.02)
    assert metrics.keys() == alone.metrics.keys()


@pytest.mark.parametrize("mask", [MASK, GAPS])
def test_metrics_and_messages_are_those_of_the_vae_in_one_process(mask):
    observed, given = observations(images(rows=N), mask=mask), {"send_variance": True}
    learnt, outputs, metrics = share(cut_at([3]), observed, prior(), **given)
    vae = make_vae(epochs=0, **given)
    vae.load_state(learnt)
    outbox = call(vae, observed, prior())
    for name in ("z", "x_hat", "loss"):
        np.testing.assert_allclose(outputs[name], outbox.outputs[name], rtol=1e-4, atol=1e-5)
    for message in outbox.messages:
        for name, array in message.arrays.items():
            np.testing.assert_allclose(outputs[f"{message.port}.{name}"], array, rtol=1e-4, atol=1e-5)
    assert metrics.pop("epochs") == 5.0
    expected = dict(outbox.metrics)
    assert expected.pop("epochs") == 0.0
    assert metrics == {name: pytest.approx(value, rel=0.02) for name, value in expected.items()}  # one sample of q


def test_reconstructions_are_in_memory_once():
    observed, vae = observations(images(rows=N), mask=MASK), make_vae()
    workers, shards = open_group([vae], Inbox([observed]), cut_at([]), Context("vae"))
    (answer,), _ = respond(workers, start_on_sample(vae, shards, Context("vae"), 200))
    sent = next(message for message in answer.messages if message.port == "reconstructions")
    assert sent.arrays["values"].shape == observed["values"].shape
    assert np.shares_memory(answer.outputs["x_hat"], sent.arrays["values"])


def test_states_of_shared_and_unshared_updates_continue_one_another():
    observed = observations(images(rows=N))
    learnt, _, _ = share(cut_at([3]), observed)
    vae = make_vae()
    vae.load_state(learnt)
    assert same_arrays(vae.state(), {name: value for name, value in learnt.items() if name != "progress"})
    call(vae, observed, round=1)
    continued, _, metrics = share(cut_at([3]), observed, learnt=vae.state(), context=Context("vae", round=2))
    assert len(continued["loss"]) == 15
    assert continued["adam.step.encoder.hidden.bias"] > vae.state()["adam.step.encoder.hidden.bias"]
    assert metrics["epochs"] == 5.0
    assert continued["loss"][-1] < learnt["loss"][0]


def test_recognition_sends_the_mean_and_needs_a_trained_vae():
    given, recognition = {"send": "sample"}, Context("vae", mode="recognize")
    learnt, outputs, _ = share(cut_at([3]), observations(images(rows=N)), **given)
    new, answer, metrics = share(cut_at([1]), observations(images(rows=N)), learnt=learnt, context=recognition, **given)
    assert np.array_equal(answer["latent_vectors.mean"], outputs["z"])
    assert not np.array_equal(outputs["latent_vectors.mean"], outputs["z"])
    assert same_arrays(new, learnt)
    assert metrics == {}
    with pytest.raises(ModuleError, match="'vae' has learnt nothing yet"):
        make_vae().respond(None, {}, recognition)


def test_an_update_reports_its_epochs_and_stops_by_the_patience():
    reports = []
    context = Context("vae", reporter=lambda done, total, metrics: reports.append((done, total, metrics["loss"])))
    given = {"epochs": 300, "patience": 3, "learning_rate": 1e-2, "batch_size": 100}
    learnt, _, metrics = share(cut_at([3]), observations(images(rows=N)), context=context, **given)
    run = int(metrics["epochs"])
    assert 3 < run < 300
    assert [report[:2] for report in reports] == [*((done, 300) for done in range(1, run)), (run, run)]
    assert [report[2] for report in reports] == learnt["loss"].tolist()
    assert metrics["loss"] == learnt["loss"][-1]
    assert min(learnt["loss"][-3:]) >= min(learnt["loss"][:-3]) * (1 - 0.005)


def test_restarted_weights_are_those_of_a_new_vae():
    observed, context = observations(images(rows=N)), Context("vae", round=1)
    before, _, _ = share(cut_at([3]), observations(1 - images(rows=N)))
    again, _, _ = share(cut_at([3]), observed, learnt=before, context=context, restart_weights=True)
    assert same_arrays(again, share(cut_at([3]), observed, context=context)[0])


@pytest.mark.parametrize("context", [Context("vae", learn=False), Context("vae", overrides={"epochs": 0})])
def test_an_update_that_does_not_learn_keeps_the_weights(context):
    observed = observations(images(rows=N))
    learnt, outputs, _ = share(cut_at([3]), observed, restart_weights=True)
    kept, again, metrics = share(cut_at([3]), observed, learnt=learnt, context=context, restart_weights=True)
    assert same_arrays(kept, learnt)
    assert np.array_equal(again["z"], outputs["z"])
    assert metrics["epochs"] == 0.0


def test_different_seeds_rounds_and_epochs_have_different_draws():
    observed = observations(images(rows=N))
    start = share(cut_at([]), observed, epochs=0)[0]
    contexts = [Context("vae"), Context("vae"), Context("vae", seed=1), Context("vae", round=1)]
    losses = [share(cut_at([]), observed, learnt=start, context=each, epochs=1)[0]["loss"][0] for each in contexts]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


# --- errors -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_learnt_is_refused():
    rows = images(rows=N)
    for epochs in (0, 2):
        with pytest.raises(ModuleError, match="every row of the observations is missing"):
            share(cut_at([3]), observations(rows, mask=np.ones(N, bool)), epochs=epochs)
    with pytest.raises(ModuleError, match=r"observations span 0\.\S* to 1\.\d+, but.*mse"):
        share(cut_at([3]), observations(rows + np.linspace(0, 1, N)[:, None, None]))
    with pytest.raises(ModuleError, match=r"observations of 'data' reach 1e\+39"):
        share(cut_at([3]), observations(rows * 1e39), likelihood="mse")
    with pytest.raises(NonFiniteError, match=r"round 0, step 0: the loss is (nan|inf) after \d+ of 5 epochs.*smaller"):
        share(cut_at([3]), observations(rows), likelihood="mse", learning_rate=1e30)
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        share(cut_at([3]), observations(rows), context=Context("vae", overrides={"latent_dim": 2}))
    learnt = share(cut_at([3]), observations(rows), epochs=1)[0]
    with pytest.raises(ModuleError, match=r"received.* shape \(16,\).*\(4, 4\)"):
        share(cut_at([3]), observations(rows.reshape(N, -1)), learnt=learnt)


def test_a_users_network_that_workers_cannot_share_is_named():
    encoder = "tests.actors.modules.test_vae:NormalisedEncoder"
    with pytest.raises(
        ModuleError, match=r"NormalisedEncoder' cannot be trained: learning changes .*num_batches_tracked"
    ):
        share(cut_at([3]), observations(images(rows=N)), encoder=encoder)


# --- runs ---------------------------------------------------------------------------------------------------------


def run(root, workers, rounds=2):
    """Run a VAE with workers below a mixture without any, which sends class means; return the commits."""
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec(
            "vae",
            "vae",
            {"latent_dim": D, "hidden": 8, "epochs": 3, "batch_size": 200},
            sharing=Sharing(workers, SIZE, 200),
        ),
        ModuleSpec("gmm", "gmm", {"classes": 3, "iterations": 5, "engine": "vb"}),
    ]
    graph = Graph(
        specs,
        [Connection("data", "vae"), Connection("vae", "gmm")],
        Schedule(rounds, (Step("vae"), Step("gmm"))),
    )
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, InProcessBackend(), run="run", seed=3, checkpoints=checkpoints)
    if checkpoints.names():
        coordinator.resume()
    else:
        coordinator.start({"data": {"values": images(rows=N)}})
    coordinator.run_rounds()
    return checkpoints, coordinator, graph


def test_runs_with_any_number_of_workers_give_the_same_commits_and_resume_each_other(tmp_path):
    alone, _, _ = run(tmp_path / "1", 1)
    for workers in (2, 3):
        shared, coordinator, graph = run(tmp_path / str(workers), workers)
        assert digests(shared, "round-002") == digests(alone, "round-002")
    run(tmp_path / "parts", 3, rounds=1)
    resumed, _, _ = run(tmp_path / "parts", 2)
    assert digests(resumed, "round-002") == digests(alone, "round-002")
    states = {name: coordinator.state(name) for name in ("vae", "gmm")}
    new = {"data": {"values": images(seed=5, rows=150)}}
    recognized = Coordinator(graph, InProcessBackend()).recognize(states, new, ordered=True)
    vae = make_vae(hidden=8)
    vae.load_state({name: value for name, value in states["vae"].items() if not name.startswith("step.")})
    expected = vae.recognize(Inbox([observations(new["data"]["values"])]), Context("vae")).outputs
    np.testing.assert_allclose(recognized["vae"]["z"], expected["z"], rtol=1e-4, atol=1e-5)
    assert recognized["vae"]["x_hat"].shape == (150, *PIXELS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_bits_on_a_gpu_do_not_depend_on_the_number_of_workers():
    results = []
    for cuts in ([], [1, 6]):
        vaes = [make_vae(batch_size=200) for _ in range(len(cuts) + 1)]
        for vae in vaes:
            vae.prepare("cuda", 1)
        results.append(share(cut_at(cuts), observations(images(rows=N), mask=MASK), prior(), vaes=vaes))
    for one, other in zip(*results, strict=True):
        assert same_arrays(one, other)
    alone = share(cut_at([]), observations(images(rows=N), mask=MASK), prior(), batch_size=200)
    np.testing.assert_allclose(results[0][0]["loss"], alone[0]["loss"], rtol=0.02)  # other draws of noise
