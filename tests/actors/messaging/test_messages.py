"""Messages: what is valid, what is refused and in which words, and how messages travel."""

from dataclasses import replace

import numpy as np
import pytest

from actors.errors import MessageError
from actors.messaging.codec import MAX_HEADER_BYTES, as_wire, decode, encode, make_message, pack_header, unpack_header
from actors.messaging.kinds import KINDS
from actors.messaging.message import ArrayHeader, Header, Message
from actors.messaging.validation import validate, validate_header

N, K, D = 5, 3, 2


def header(kind, **fields):
    return Header(**{"kind": kind, "sender": "gmm", "receiver": "mm", "port": "evidence", "run": "run", **fields})


def log_rows(n=N, k=K, dtype="<f8"):
    """Rows of log-distributions."""
    weights = np.random.default_rng(n * 100 + k).random((n, k)) + 0.1
    return np.log(weights / weights.sum(1, keepdims=True)).astype(dtype)


def arrays_of(kind, n=N, k=K, d=D, dtype="<f8"):
    """The arrays that a message of `kind` cannot do without, valid."""
    values = np.random.default_rng(n + k + d).normal(size=(max(n, k), d)).astype(dtype)
    return {
        "observations": {"values": values[:n]},
        "latent_vectors": {"mean": values[:n]},
        "class_posteriors": {"log_prob": log_rows(n, k, dtype), "log_norm": -np.arange(n).astype(dtype)},
        "class_means": {"means": values[:k], "responsibilities": np.exp(log_rows(n, k, "<f8")).astype(dtype)},
        "latent_means": {"mean": values[:n]},
        "transition_prior": {"log_prob": log_rows(n, k, dtype)},
        "reconstructions": {"values": values[:n]},
    }[kind]


def message(kind, **changed):
    """A valid message of `kind`, but for the arrays that are `changed`."""
    return make_message(header(kind), {**arrays_of(kind), **changed})


def refusal(kind, **changed):
    """What is said when a message of `kind` with `changed` arrays is made."""
    with pytest.raises(MessageError) as raised:
        message(kind, **changed)
    return str(raised.value)


def with_row(array, row, value):
    changed = np.array(array)
    changed[row] = value
    return changed


KIND_NAMES = sorted(KINDS)
ROW_ARRAYS = [
    (kind.name, spec.name)
    for kind in KINDS.values()
    for spec in kind.arrays
    if spec.dims[0] == "N" and not spec.optional
]


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_kind_comes_back_as_it_was_sent(kind, dtype):
    extras = {"lengths": [2, 3], "mask": [True, False, False, False, True]}
    sent = make_message(header(kind, round=3, step=1, sequence=9), {**arrays_of(kind, dtype=dtype), **extras})
    came = decode(encode(sent))
    assert came.header == sent.header
    assert came.lengths.tolist() == [2, 3]
    assert came.mask.tolist() == extras["mask"]
    for name, array in sent.arrays.items():
        assert came[name].dtype == array.dtype
        assert came[name].tobytes() == array.tobytes()
        assert not came[name].flags.writeable
    assert unpack_header(pack_header(sent.header)) == sent.header


def test_a_message_does_without_its_optional_arrays():
    sent = message("latent_vectors")
    assert sent.lengths is None
    assert sent.mask is None
    assert sent.get("variance") is None
    assert decode(encode(sent)).get("variance") is None


def test_observations_keep_any_further_dimensions():
    images = np.zeros((4, 8, 8, 3), np.float32)
    assert decode(encode(message("observations", values=images)))["values"].shape == (4, 8, 8, 3)
    assert message("observations", values=np.zeros(4))["values"].shape == (4,)


class TestWireForm:
    def test_big_endian_and_strided_arrays_become_little_endian_and_contiguous(self):
        values = np.arange(24, dtype=">f4").reshape(4, 6)[:, ::2]
        sent = message("observations", values=values)
        assert sent.header.arrays[0] == ArrayHeader("values", "<f4", (4, 3))
        assert sent["values"].flags.c_contiguous
        np.testing.assert_array_equal(decode(encode(sent))["values"], values)

    def test_fortran_order_is_not_seen_on_the_wire(self):
        values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        np.testing.assert_array_equal(decode(encode(message("observations", values=values)))["values"], values)

    def test_what_is_in_wire_form_already_is_not_copied(self):
        values = np.arange(12.0).reshape(3, 4)
        assert np.shares_memory(message("observations", values=values)["values"], values)

    def test_a_scalar_array_keeps_its_lack_of_dimensions(self):
        assert as_wire(np.float64(2.0)).shape == ()

    def test_negative_zero_and_denormal_numbers_keep_their_bits(self):
        values = np.array([[-0.0, 5e-324, 1e308]])
        assert decode(encode(message("observations", values=values)))["values"].tobytes() == values.tobytes()

    def test_decoded_arrays_are_aligned(self):
        for kind in KIND_NAMES:
            came = decode(encode(message(kind, mask=[True] * N)))
            assert all(array.flags.aligned for array in came.arrays.values())


class TestWhatRefusalsSay:
    ROUTE = "gmm -> mm.evidence ({})"

    @pytest.mark.parametrize("kind", KIND_NAMES)
    def test_sender_receiver_port_and_kind_are_named(self, kind):
        name = KINDS[kind].arrays[0].name
        assert refusal(kind, **{name: np.zeros((2, 2), np.int32)}).startswith(self.ROUTE.format(kind))

    def test_an_unaddressed_message_is_named_by_what_is_known(self):
        with pytest.raises(MessageError, match=r"^vae -> \?\.z \(latent_vectors\): "):
            make_message(Header("latent_vectors", "vae", "z"), {"mean": [[np.nan]]})

    def test_a_wrong_dtype_is_named_with_those_expected(self):
        assert refusal("latent_vectors", mean=np.zeros((N, D), np.float16)).endswith(
            "mean has dtype '<f2', expected <f4 or <f8"
        )
        assert refusal("latent_vectors", lengths=np.array([5], np.int32)).endswith(
            "lengths has dtype '<i4', expected <i8"
        )
        assert refusal("latent_vectors", mask=np.zeros(N, np.uint8)).endswith("mask has dtype '|u1', expected |b1")

    @pytest.mark.parametrize("values", [[["a", "b"]], [[object()]], [[1j]], [[np.datetime64(1, "s")]]])
    def test_what_is_no_number_is_refused(self, values):
        assert "values has dtype" in refusal("observations", values=np.array(values))

    def test_a_ragged_list_is_refused(self):
        assert "values is no array" in refusal("observations", values=[[1.0, 2.0], [3.0]])

    def test_a_wrong_number_of_dimensions_is_named_with_the_shape_expected(self):
        assert "mean has shape (5,), expected N×D" in refusal("latent_vectors", mean=np.zeros(N))
        assert "log_norm has shape (5, 1), expected N" in refusal("class_posteriors", log_norm=np.zeros((N, 1)))
        assert "values has shape (), expected N×..." in refusal("observations", values=np.float64(1))
        assert "expected N×..., 8 at most" in refusal("observations", values=np.zeros((1,) * 9))

    def test_sizes_that_disagree_are_named(self):
        said = refusal("class_posteriors", log_norm=np.zeros(N + 1))
        assert "log_norm has shape (6,) as N, but N is 5 elsewhere" in said
        assert "but D is 2 elsewhere" in refusal("latent_vectors", variance=np.ones((N, D + 1)))
        assert "but K is 3 elsewhere" in refusal("class_means", responsibilities=np.eye(N))
        assert "mask has shape (3,) as N, but N is 5" in refusal("class_means", mask=np.zeros(K, bool))

    def test_a_missing_and_a_strange_array_are_named(self):
        with pytest.raises(MessageError, match="array 'log_norm' is missing, only \\['log_prob'\\] came"):
            make_message(header("class_posteriors"), {"log_prob": log_rows()})
        assert "array 'labels' does not belong to the kind" in refusal("observations", labels=np.zeros(N))

    def test_an_unknown_kind_is_named_with_those_known(self):
        with pytest.raises(MessageError, match="unknown kind 'gossip'; known are class_means, class_posteriors"):
            make_message(header("gossip"), {"values": np.zeros((1, 1))})

    def test_another_schema_is_named_with_the_one_spoken_here(self):
        with pytest.raises(MessageError, match="schema 2 came, schema 1 is spoken here"):
            make_message(header("observations", schema=2), {"values": np.zeros((1, 1))})

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"sender": 3}, "sender is 3, expected text"),
            ({"sender": "x" * 1025}, "sender has 1025 bytes, at most 1024"),
            ({"run": "\ud800"}, "no Unicode text"),
            ({"round": -1}, "round is -1, expected 0 or above"),
            ({"step": 1.0}, "step is 1.0, expected an integer"),
            ({"sequence": True}, "sequence is True, expected an integer"),
            ({"sequence": 2**63}, "below 2\\^63"),
        ],
    )
    def test_a_header_that_could_not_be_read_again_is_refused_when_it_is_made(self, fields, said):
        with pytest.raises(MessageError, match=said):
            make_message(header("observations", **fields), arrays_of("observations"))

    def test_the_longest_names_still_fit_into_a_header(self):
        long = dict.fromkeys(("sender", "receiver", "port", "run"), "é" * 512)
        sent = make_message(header("class_posteriors", **long), {**arrays_of("class_posteriors"), "mask": [False] * N})
        assert len(pack_header(sent.header)) < MAX_HEADER_BYTES
        assert decode(encode(sent)).header == sent.header == unpack_header(pack_header(sent.header))

    def test_a_header_that_announces_more_than_a_message_may_have_is_refused_before_the_arrays_are_looked_at(self):
        most = header("observations", arrays=(ArrayHeader("values", "<f4", (2**30 - 1,)),))
        validate_header(most)
        more = replace(most, arrays=(ArrayHeader("values", "<f4", (2**21, 512)),))
        with pytest.raises(MessageError, match=r"4\.0 GiB, at most 4 GiB are allowed; send fewer rows"):
            unpack_header(pack_header(more))


class TestWhatArraysSay:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize(("kind", "name"), ROW_ARRAYS)
    def test_nan_and_inf_are_refused_with_their_row(self, kind, name, value):
        said = refusal(kind, **{name: with_row(arrays_of(kind)[name], 3, value)})
        assert f": {name} " in said
        assert "in row 3 (1 such rows)" in said

    def test_an_optional_array_is_held_to_the_same(self):
        assert "variance is not finite in row 0" in refusal("latent_vectors", variance=np.full((N, D), np.nan))

    def test_a_row_of_minus_inf_is_refused(self):
        said = refusal("transition_prior", log_prob=with_row(log_rows(), 1, -np.inf))
        assert "log_prob is -inf throughout in row 1" in said

    def test_single_impossible_classes_are_fine(self):
        rows = np.log(np.eye(K), where=np.eye(K) > 0, out=np.full((K, K), -np.inf))
        assert message("transition_prior", log_prob=rows)["log_prob"].tobytes() == rows.tobytes()

    def test_rows_that_are_no_distribution_are_refused(self):
        assert "does not sum to one in row 0 (5 such rows)" in refusal("transition_prior", log_prob=log_rows() + 0.01)
        assert "does not sum to one in row 4" in refusal("transition_prior", log_prob=with_row(log_rows(), 4, 700.0))
        responsibilities = arrays_of("class_means")["responsibilities"]
        assert "does not sum to one in row 2" in refusal(
            "class_means", responsibilities=with_row(responsibilities, 2, 0.0)
        )

    def test_numbers_whose_sum_overflows_are_refused_whatever_numpy_does_on_errors(self):
        huge = np.full((N, K), np.finfo(np.float32).max, np.float32)
        with np.errstate(all="raise"):
            assert "does not sum to one" in refusal("transition_prior", log_prob=huge)
            assert "does not sum to one" in refusal("class_means", responsibilities=huge)
            assert "does not sum to one" in refusal("transition_prior", log_prob=-huge)

    def test_negative_probabilities_are_refused_even_where_they_sum_to_one(self):
        responsibilities = with_row(np.full((N, K), 1 / 3), 1, [1.5, -0.25, -0.25])
        assert "negative probability in row 1" in refusal("class_means", responsibilities=responsibilities)

    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_float32_rows_may_be_as_far_from_one_as_float32_is(self, classes):
        message("transition_prior", log_prob=log_rows(20, classes, "<f4"))
        rounded = log_rows(20, classes, "<f4")
        message("transition_prior", log_prob=rounded + np.float32(5e-4))
        assert "does not sum to one" in refusal("transition_prior", log_prob=rounded + np.float32(2e-3))

    def test_float64_rows_may_not(self):
        message("transition_prior", log_prob=log_rows() + 5e-7)
        assert "does not sum to one" in refusal("transition_prior", log_prob=log_rows() + 5e-6)

    def test_log_norm_is_any_finite_number(self):
        message("class_posteriors", log_norm=np.full(N, -1e300))
        assert "log_norm is not finite in row 0 (5 such rows)" in refusal(
            "class_posteriors", log_norm=np.full(N, -np.inf)
        )


class TestLengthsAndMask:
    @pytest.mark.parametrize("kind", KIND_NAMES)
    def test_lengths_add_up_to_the_rows_of_every_kind(self, kind):
        assert message(kind, lengths=[1, 4]).lengths.tolist() == [1, 4]
        assert "lengths adds up to 6, but there are 5 rows" in refusal(kind, lengths=[2, 4])

    @pytest.mark.parametrize("classes", [2, 5, 9])
    def test_class_means_count_the_rows_of_responsibilities_not_the_classes(self, classes):
        arrays = arrays_of("class_means", k=classes)
        made = make_message(header("class_means"), {**arrays, "lengths": [2, 3], "mask": [True] * N})
        assert decode(encode(made)).lengths.tolist() == [2, 3]
        if classes != N:
            assert "but there are 5 rows" in refusal("class_means", **arrays, lengths=[classes])

    def test_lengths_may_come_first_in_the_header(self):
        made = make_message(header("class_means"), {"lengths": [2, 3], **arrays_of("class_means")})
        assert decode(encode(made)).header.arrays[0].name == "lengths"

    def test_sequences_without_rows_and_of_negative_length_are_refused(self):
        assert "has a sequence without rows" in refusal("observations", lengths=[5, 0])
        assert "has a sequence without rows" in refusal("observations", lengths=[6, -1])

    def test_lengths_whose_sum_wraps_around_are_refused(self):
        wrapping = np.array([2**62, 2**62, 2**62, 2**62, 5], dtype=np.int64)  # as int64 their sum is 5
        assert wrapping.sum() == 5
        assert f"adds up to {2**64 + 5}, but there are 5 rows" in refusal("observations", lengths=wrapping)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_message_without_rows_or_columns_is_refused(kind):
    for sizes in ({"n": 0}, {"d": 0, "k": 0}):
        arrays = arrays_of(kind, **sizes)
        with pytest.raises(MessageError, match="with none of them 0"):
            make_message(header(kind), arrays)
    with pytest.raises(MessageError, match="lengths has shape"):
        make_message(header(kind), {**arrays_of(kind), "lengths": np.zeros(0, np.int64)})


class TestHeaderAgainstArrays:
    def test_an_array_that_did_not_come_is_named(self):
        sent = message("latent_vectors", lengths=[5])
        for name in sent.arrays:
            rest = {other: array for other, array in sent.arrays.items() if other != name}
            with pytest.raises(MessageError, match=f"{name} is announced and did not come"):
                validate(Message(sent.header, rest))

    def test_an_array_that_nobody_announced_is_named(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match="array 'mask' came, only mean are announced"):
            validate(Message(sent.header, {**sent.arrays, "mask": np.zeros(99, bool)}))

    def test_an_array_other_than_announced_is_named(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match=r"mean is announced as <f8 \(5, 2\), <f4 \(5, 2\) came"):
            validate(Message(sent.header, {"mean": sent["mean"].astype("<f4")}))
        with pytest.raises(MessageError, match=r"\(2, 5\) came"):
            validate(Message(sent.header, {"mean": np.zeros((2, 5))}))
        with pytest.raises(MessageError, match="announced"):
            encode(Message(sent.header, {"mean": sent["mean"].astype(">f8")}))

    def test_an_array_named_twice_is_refused(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match="named twice"):
            validate(Message(replace(sent.header, arrays=sent.header.arrays * 2), sent.arrays))


def test_an_addressed_header_differs_in_receiver_and_port_alone():
    sent = message("latent_vectors").header
    assert sent.addressed("gmm", "z") == replace(sent, receiver="gmm", port="z")
    assert sent.addressed("gmm", "z").route == "gmm -> gmm.z (latent_vectors)"


def test_the_header_counts_the_bytes_of_all_arrays():
    sent = message("class_posteriors", mask=[False] * N)
    assert sent.header.nbytes == N * K * 8 + N * 8 + N
