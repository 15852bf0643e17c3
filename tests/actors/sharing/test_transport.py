"""Tests of what workers send each other: fewer bytes, the same bits."""

import pickle

import numpy as np
import pytest

from actors.errors import StaleIncarnationError
from actors.limits import MAX_KEPT_PARAMETER_BYTES
from actors.sharing.transport import Exchange, Known, Repeated, pack_triangles, unpack_triangles

RNG = np.random.default_rng(0)
FULL = RNG.normal(size=(5, 18, 18))
SYMMETRIC = FULL + FULL.swapaxes(1, 2)
LOWER = np.tril(FULL)
PARAMETERS = {"mean": RNG.normal(size=(5, 18)), "scale": SYMMETRIC, "factor": LOWER, "phase": "fit", "rows": 7}


def same(one, other):
    """Return whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(
        np.asarray(value).tobytes() == np.asarray(other[name]).tobytes() and type(value) is type(other[name])
        for name, value in one.items()
    )


def size(value):
    return len(pickle.dumps(value, protocol=5))


class TestTriangles:
    @pytest.mark.parametrize("matrices", [SYMMETRIC, LOWER, SYMMETRIC[0], LOWER[0], np.zeros((4, 4))])
    def test_of_symmetric_and_triangular_matrices_one_triangle_is_sent(self, matrices):
        packed = pack_triangles({(0, 3): {"second": matrices}})
        assert packed[0, 3]["second"].lower.nbytes < 0.7 * matrices.nbytes
        assert unpack_triangles(packed)[0, 3]["second"].tobytes() == matrices.tobytes()

    @pytest.mark.parametrize(
        "array",
        [FULL, np.arange(16.0), np.arange(16).reshape(4, 4), np.zeros((0, 4, 4)), np.eye(3), np.zeros((4, 5)), "text"],
    )
    def test_other_values_are_sent_as_they_are(self, array):
        assert pack_triangles(array) is array

    def test_matrices_that_differ_in_one_bit_from_symmetric_ones_are_sent_whole(self):
        nearly = SYMMETRIC.copy()
        nearly[2, 3, 7] = np.nextafter(nearly[2, 3, 7], np.inf)
        signed = LOWER.copy()
        signed[1, 0, 5] = -0.0
        for matrices in (nearly, signed):
            assert unpack_triangles(pack_triangles(matrices)).tobytes() == matrices.tobytes()

    def test_values_that_are_not_numbers_keep_their_bits(self):
        matrix = np.full((6, 6), np.nan)
        matrix[2, 3] = matrix[3, 2] = -np.inf
        assert unpack_triangles(pack_triangles(matrix)).tobytes() == matrix.tobytes()


class TestParameters:
    def group(self, workers=3):
        group = [Exchange() for _ in range(workers)]
        group[0].first = True
        return group

    def pass_on(self, group, learnt):
        """Send parameters from the first worker to all, and sums back; return what was sent and what arrived."""
        sent = group[0].send_parameters(learnt)
        arrived = [each.receive([sent])[0] for each in group]
        group[0].receive([each.send_sums({(0, n): {"sum": np.ones(3)}}) for n, each in enumerate(group)])
        return sent, arrived

    def test_what_all_workers_have_is_not_sent_again(self):
        group = self.group()
        first, arrived = self.pass_on(group, PARAMETERS)
        assert all(same(each, PARAMETERS) for each in arrived)
        changed = {**PARAMETERS, "mean": PARAMETERS["mean"] + 1.0, "before_scale": PARAMETERS["scale"]}
        second, arrived = self.pass_on(group, changed)
        assert all(same(each, changed) for each in arrived)
        assert [name for name, value in second.values.items() if isinstance(value, Known)] == [
            "scale", "factor", "before_scale",
        ]  # fmt: skip
        assert size(second) < 0.2 * size(first)

    def test_a_new_worker_gets_everything_once_the_first_one_knows_of_it(self):
        group = self.group()
        self.pass_on(group, PARAMETERS)
        group[2] = Exchange()
        with pytest.raises(StaleIncarnationError, match="the parameters mean are not in this process"):
            group[2].receive([group[0].send_parameters(PARAMETERS)])
        group[0].forget()
        _, arrived = self.pass_on(group, PARAMETERS)
        assert all(same(each, PARAMETERS) for each in arrived)

    def test_a_new_first_worker_sends_everything(self):
        group = self.group()
        self.pass_on(group, PARAMETERS)
        group[0] = Exchange()
        group[0].first = True
        sent, arrived = self.pass_on(group, PARAMETERS)
        assert not any(isinstance(value, Known) for value in sent.values.values())
        assert all(same(each, PARAMETERS) for each in arrived)

    def test_parameters_that_only_some_workers_got_are_not_taken_for_known(self):
        group = self.group()
        self.pass_on(group, PARAMETERS)
        lost = {name: value + 1.0 if name == "scale" else value for name, value in PARAMETERS.items()}
        group[0].receive([group[0].send_parameters(lost)])  # the call failed before the others got them
        sent, arrived = self.pass_on(group, lost)
        assert not isinstance(sent.values["scale"], Known)
        assert all(same(each, lost) for each in arrived)

    def test_an_array_that_the_module_changes_after_it_was_sent_is_sent_again(self):
        group = self.group()
        learnt = {"mean": PARAMETERS["mean"].copy()}
        self.pass_on(group, learnt)
        before = learnt["mean"].copy()
        learnt["mean"] += 1.0
        _, arrived = self.pass_on(group, learnt)
        assert all(np.array_equal(each["mean"], before + 1.0) for each in arrived)

    def test_many_passes_keep_the_bits_and_no_more_than_a_few_parameters(self):
        group, generator = self.group(2), np.random.default_rng(1)
        for _ in range(20):
            learnt = {**PARAMETERS, "mean": generator.normal(size=(5, 18))}
            _, arrived = self.pass_on(group, learnt)
            assert all(same(each, learnt) for each in arrived)
        assert len(group[0]._made) <= 4
        assert len(group[1]._received) <= 2

    def test_parameters_that_a_worker_is_called_with_again_are_those_that_it_got_last(self):
        group = self.group()
        self.pass_on(group, PARAMETERS)
        assert all(same(each.receive([Repeated()])[0], PARAMETERS) for each in group)

    def test_the_first_worker_may_use_the_parameters_that_it_has_kept(self):
        group = self.group()
        for known in (False, True):
            sent = group[0].send_parameters(PARAMETERS)
            assert isinstance(sent.values["scale"], Known) == known
            arrived = [each.receive([sent])[0] for each in group[1:]]
            assert all(same(each, PARAMETERS) for each in arrived)
            group[0].receive([each.send_sums({}) for each in group])

    def test_large_parameters_are_sent_as_they_are(self):
        group = self.group(2)
        large = {"weights": np.ones(MAX_KEPT_PARAMETER_BYTES // 8 + 1)}
        for _ in range(2):
            sent, arrived = self.pass_on(group, large)
            assert sent.values["weights"] is large["weights"]
            assert same(arrived[1], large)
