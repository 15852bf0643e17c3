"""Messages: the codec, validation, and the error messages for invalid ones."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest

from actors.errors import MessageError
from actors.limits import MAX_HEADER_BYTES
from actors.messaging import validation
from actors.messaging.codec import as_wire, decode, encode, make_message, pack_header, unpack_header
from actors.messaging.kinds import KINDS
from actors.messaging.message import ArrayHeader, Header, Message
from actors.messaging.validation import HEADER_FIELDS, validate

N, K, D = 5, 3, 2


def header(kind, **fields):
    return Header(**{"kind": kind, "sender": "gmm", "receiver": "mm", "port": "evidence", "run": "run", **fields})


def log_rows(n=N, k=K, dtype="<f8"):
    """Rows of log-distributions."""
    weights = np.random.default_rng(n * 100 + k).random((n, k)) + 0.1
    return np.log(weights / weights.sum(1, keepdims=True)).astype(dtype)


def arrays_of(kind, n=N, k=K, d=D, dtype="<f8"):
    """Return valid arrays for the required arrays of a message of `kind`."""
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
    """Return a message of `kind`, valid except for the arrays that are `changed`."""
    return make_message(header(kind), {**arrays_of(kind), **changed})


def error_of(kind, **changed):
    """Return the error message for a message of `kind` with `changed` arrays."""
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
def test_decoding_an_encoded_message_of_each_kind_gives_the_same_bits(kind, dtype):
    extras = {"lengths": [2, 3], "mask": [True, False, False, False, True]}
    sent = make_message(header(kind, round=3, step=1, sequence=9), {**arrays_of(kind, dtype=dtype), **extras})
    decoded = decode(encode(sent))
    assert decoded.header == sent.header
    assert decoded.lengths.tolist() == [2, 3]
    assert decoded.mask.tolist() == extras["mask"]
    for name, array in sent.arrays.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].tobytes() == array.tobytes()
        assert not decoded[name].flags.writeable
    assert unpack_header(pack_header(sent.header)) == sent.header


def test_optional_arrays_may_be_absent():
    sent = message("latent_vectors")
    assert sent.lengths is None
    assert sent.mask is None
    assert sent.get("variance") is None
    assert decode(encode(sent)).get("variance") is None


def test_observations_may_have_further_dimensions():
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

    def test_arrays_in_fortran_order_become_c_contiguous(self):
        values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        np.testing.assert_array_equal(decode(encode(message("observations", values=values)))["values"], values)

    def test_an_array_in_wire_form_is_not_copied(self):
        values = np.arange(12.0).reshape(3, 4)
        assert np.shares_memory(message("observations", values=values)["values"], values)

    def test_an_array_without_dimensions_stays_one(self):
        assert as_wire(np.float64(2.0)).shape == ()

    def test_negative_zero_and_denormal_numbers_keep_their_bits(self):
        values = np.array([[-0.0, 5e-324, 1e308]])
        assert decode(encode(message("observations", values=values)))["values"].tobytes() == values.tobytes()

    def test_decoded_arrays_are_aligned(self):
        for kind in KIND_NAMES:
            decoded = decode(encode(message(kind, mask=[True] * N)))
            assert all(array.flags.aligned for array in decoded.arrays.values())


class TestHeaderErrors:
    ROUTE = "gmm -> mm.evidence ({})"

    @pytest.mark.parametrize("kind", KIND_NAMES)
    def test_name_sender_receiver_port_and_kind(self, kind):
        name = KINDS[kind].arrays[0].name
        assert error_of(kind, **{name: np.zeros((2, 2), np.int32)}).startswith(self.ROUTE.format(kind))

    def test_name_the_known_part_of_an_incomplete_route(self):
        with pytest.raises(MessageError, match=r"^vae -> \?\.z \(latent_vectors\): "):
            make_message(Header("latent_vectors", "vae", "z"), {"mean": [[np.nan]]})

    def test_name_a_wrong_dtype_and_the_expected_ones(self):
        assert error_of("latent_vectors", mean=np.zeros((N, D), np.float16)).endswith(
            "mean has dtype '<f2', expected <f4 or <f8"
        )
        assert error_of("latent_vectors", lengths=np.array([5], np.int32)).endswith(
            "lengths has dtype '<i4', expected <i8"
        )
        assert error_of("latent_vectors", mask=np.zeros(N, np.uint8)).endswith("mask has dtype '|u1', expected |b1")

    @pytest.mark.parametrize("values", [[["a", "b"]], [[object()]], [[1j]], [[np.datetime64(1, "s")]]])
    def test_refuse_arrays_that_are_not_numeric(self, values):
        assert "values has dtype" in error_of("observations", values=np.array(values))

    def test_refuse_a_ragged_list(self):
        assert "values cannot be converted to an array" in error_of("observations", values=[[1.0, 2.0], [3.0]])

    def test_name_a_wrong_number_of_dimensions_and_the_expected_shape(self):
        assert "mean has shape (5,), expected N×D" in error_of("latent_vectors", mean=np.zeros(N))
        assert "log_norm has shape (5, 1), expected N" in error_of("class_posteriors", log_norm=np.zeros((N, 1)))
        assert "values has shape (), expected N×..." in error_of("observations", values=np.float64(1))
        assert "expected N×..., at most 8 dimensions" in error_of("observations", values=np.zeros((1,) * 9))

    def test_name_sizes_that_disagree(self):
        error = error_of("class_posteriors", log_norm=np.zeros(N + 1))
        assert "log_norm has shape (6,), expected N, but N is 5 in another array" in error
        assert "but D is 2 in another array" in error_of("latent_vectors", variance=np.ones((N, D + 1)))
        assert "but K is 3 in another array" in error_of("class_means", responsibilities=np.eye(N))
        assert "mask has shape (3,), expected N, but N is 5" in error_of("class_means", mask=np.zeros(K, bool))

    def test_name_a_missing_and_an_unknown_array(self):
        with pytest.raises(MessageError, match="array 'log_norm' is missing, got only \\['log_prob'\\]"):
            make_message(header("class_posteriors"), {"log_prob": log_rows()})
        assert "array 'labels' does not belong to the kind" in error_of("observations", labels=np.zeros(N))

    def test_name_an_unknown_kind_and_the_known_ones(self):
        with pytest.raises(MessageError, match="unknown kind 'gossip'; known kinds are class_means, class_posteriors"):
            make_message(header("gossip"), {"values": np.zeros((1, 1))})

    def test_name_another_schema_and_the_expected_one(self):
        with pytest.raises(MessageError, match="has schema 2, expected schema 1"):
            make_message(header("observations", schema=2), {"values": np.zeros((1, 1))})

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"sender": 3}, "sender is 3, expected text"),
            ({"sender": "x" * 1025}, "sender has 1025 bytes, at most 1024"),
            ({"run": "\ud800"}, "not valid Unicode text"),
            ({"round": -1}, "round is -1, expected 0 or more"),
            ({"step": 1.0}, "step is 1.0, expected an integer"),
            ({"sequence": True}, "sequence is True, expected an integer"),
            ({"sequence": 2**63}, "less than 2\\^63"),
        ],
    )
    def test_refuse_invalid_fields_when_a_message_is_made(self, fields, error):
        with pytest.raises(MessageError, match=error):
            make_message(header("observations", **fields), arrays_of("observations"))

    def test_the_longest_names_fit_into_a_header(self):
        long = dict.fromkeys(("sender", "receiver", "port", "run"), "é" * 512)
        sent = make_message(header("class_posteriors", **long), {**arrays_of("class_posteriors"), "mask": [False] * N})
        assert len(pack_header(sent.header)) < MAX_HEADER_BYTES
        assert decode(encode(sent)).header == sent.header == unpack_header(pack_header(sent.header))

    def test_a_message_in_one_process_has_at_most_4_gib_and_one_that_workers_share_may_have_more(self):
        more = header("observations", arrays=(ArrayHeader("values", "<f4", (2**21, 512)),))
        assert unpack_header(pack_header(more)) == more
        with pytest.raises(MessageError, match=r"4\.0 GiB of arrays, at most 4 GiB are allowed; let workers share"):
            validate(Message(more, {"values": np.broadcast_to(np.zeros(1, "f4"), (2**21, 512))}))


class TestArrayValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize(("kind", "name"), ROW_ARRAYS)
    def test_nan_and_inf_are_refused_with_their_row(self, kind, name, value):
        error = error_of(kind, **{name: with_row(arrays_of(kind)[name], 3, value)})
        assert f": {name} " in error
        assert "in row 3 (1 such rows)" in error

    def test_an_optional_array_is_validated_too(self):
        assert "variance is not finite in row 0" in error_of("latent_vectors", variance=np.full((N, D), np.nan))

    def test_a_row_of_minus_inf_is_refused(self):
        error = error_of("transition_prior", log_prob=with_row(log_rows(), 1, -np.inf))
        assert "log_prob contains only -inf in row 1" in error

    def test_single_classes_of_probability_zero_are_valid(self):
        rows = np.log(np.eye(K), where=np.eye(K) > 0, out=np.full((K, K), -np.inf))
        assert message("transition_prior", log_prob=rows)["log_prob"].tobytes() == rows.tobytes()

    def test_rows_that_do_not_sum_to_one_are_refused(self):
        assert "does not sum to one in row 0 (5 such rows)" in error_of("transition_prior", log_prob=log_rows() + 0.01)
        assert "does not sum to one in row 4" in error_of("transition_prior", log_prob=with_row(log_rows(), 4, 700.0))
        responsibilities = arrays_of("class_means")["responsibilities"]
        assert "does not sum to one in row 2" in error_of(
            "class_means", responsibilities=with_row(responsibilities, 2, 0.0)
        )

    def test_values_whose_sum_overflows_are_refused_with_any_numpy_error_setting(self):
        huge = np.full((N, K), np.finfo(np.float32).max, np.float32)
        with np.errstate(all="raise"):
            assert "does not sum to one" in error_of("transition_prior", log_prob=huge)
            assert "does not sum to one" in error_of("class_means", responsibilities=huge)
            assert "does not sum to one" in error_of("transition_prior", log_prob=-huge)

    def test_negative_probabilities_are_refused_although_they_sum_to_one(self):
        responsibilities = with_row(np.full((N, K), 1 / 3), 1, [1.5, -0.25, -0.25])
        assert "negative probability in row 1" in error_of("class_means", responsibilities=responsibilities)

    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_float32_rows_have_a_tolerance_of_float32_precision(self, classes):
        message("transition_prior", log_prob=log_rows(20, classes, "<f4"))
        rounded = log_rows(20, classes, "<f4")
        message("transition_prior", log_prob=rounded + np.float32(5e-4))
        assert "does not sum to one" in error_of("transition_prior", log_prob=rounded + np.float32(2e-3))

    def test_float64_rows_have_a_smaller_tolerance(self):
        message("transition_prior", log_prob=log_rows() + 5e-7)
        assert "does not sum to one" in error_of("transition_prior", log_prob=log_rows() + 5e-6)

    def test_log_norm_may_be_any_finite_number(self):
        message("class_posteriors", log_norm=np.full(N, -1e300))
        assert "log_norm is not finite in row 0 (5 such rows)" in error_of(
            "class_posteriors", log_norm=np.full(N, -np.inf)
        )


class TestLengthsAndMask:
    @pytest.mark.parametrize("kind", KIND_NAMES)
    def test_lengths_sum_to_the_rows_of_every_kind(self, kind):
        assert message(kind, lengths=[1, 4]).lengths.tolist() == [1, 4]
        assert "lengths sums to 6, but there are 5 rows" in error_of(kind, lengths=[2, 4])

    @pytest.mark.parametrize("classes", [2, 5, 9])
    def test_the_rows_of_class_means_are_those_of_responsibilities(self, classes):
        arrays = arrays_of("class_means", k=classes)
        made = make_message(header("class_means"), {**arrays, "lengths": [2, 3], "mask": [True] * N})
        assert decode(encode(made)).lengths.tolist() == [2, 3]
        if classes != N:
            assert "but there are 5 rows" in error_of("class_means", **arrays, lengths=[classes])

    def test_lengths_may_come_first_in_the_header(self):
        made = make_message(header("class_means"), {"lengths": [2, 3], **arrays_of("class_means")})
        assert decode(encode(made)).header.arrays[0].name == "lengths"

    def test_lengths_that_are_not_positive_are_refused(self):
        assert "contains a sequence length that is not positive" in error_of("observations", lengths=[5, 0])
        assert "contains a sequence length that is not positive" in error_of("observations", lengths=[6, -1])

    def test_lengths_whose_sum_overflows_are_refused(self):
        wrapping = np.array([2**62, 2**62, 2**62, 2**62, 5], dtype=np.int64)  # as int64 their sum is 5
        assert wrapping.sum() == 5
        assert f"sums to {2**64 + 5}, but there are 5 rows" in error_of("observations", lengths=wrapping)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_message_without_rows_or_columns_is_refused(kind):
    for sizes in ({"n": 0}, {"d": 0, "k": 0}):
        arrays = arrays_of(kind, **sizes)
        with pytest.raises(MessageError, match="with no size of 0"):
            make_message(header(kind), arrays)
    with pytest.raises(MessageError, match="lengths has shape"):
        make_message(header(kind), {**arrays_of(kind), "lengths": np.zeros(0, np.int64)})


class TestHeaderAgainstArrays:
    def test_name_a_missing_array(self):
        sent = message("latent_vectors", lengths=[5])
        for name in sent.arrays:
            rest = {other: array for other, array in sent.arrays.items() if other != name}
            with pytest.raises(MessageError, match=f"{name} is declared in the header but missing"):
                validate(Message(sent.header, rest))

    def test_name_an_undeclared_array(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match="array 'mask' is not declared in the header, only mean"):
            validate(Message(sent.header, {**sent.arrays, "mask": np.zeros(99, bool)}))

    def test_name_an_array_that_differs_from_its_declaration(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match=r"mean is declared as <f8 \(5, 2\), got <f4 \(5, 2\)"):
            validate(Message(sent.header, {"mean": sent["mean"].astype("<f4")}))
        with pytest.raises(MessageError, match=r"got <f8 \(2, 5\)"):
            validate(Message(sent.header, {"mean": np.zeros((2, 5))}))
        with pytest.raises(MessageError, match="mean is declared as <f8"):
            encode(Message(sent.header, {"mean": sent["mean"].astype(">f8")}))

    def test_refuse_a_duplicate_array(self):
        sent = message("latent_vectors")
        with pytest.raises(MessageError, match="duplicate array name"):
            validate(Message(replace(sent.header, arrays=sent.header.arrays * 2), sent.arrays))


def test_an_addressed_header_differs_only_in_receiver_and_port():
    sent = message("latent_vectors").header
    assert sent.addressed("gmm", "z") == replace(sent, receiver="gmm", port="z")
    assert sent.addressed("gmm", "z").route == "gmm -> gmm.z (latent_vectors)"


def test_the_size_of_a_header_is_that_of_all_arrays():
    sent = message("class_posteriors", mask=[False] * N)
    assert sent.header.nbytes == N * K * 8 + N * 8 + N


@pytest.mark.parametrize("rows", [1, 40, 4000])
def test_a_document_is_what_msgpack_makes_of_header_and_arrays(rows):
    sent = message("class_posteriors", log_prob=log_rows(rows), log_norm=np.zeros(rows), mask=np.arange(rows) % 2 == 0)
    fields = {name: getattr(sent.header, name) for name in HEADER_FIELDS}
    fields["arrays"] = [[array.name, array.dtype, list(array.shape)] for array in sent.header.arrays]
    arrays = [sent.arrays[array.name].tobytes() for array in sent.header.arrays]
    assert encode(sent) == msgpack.packb({"header": fields, "arrays": arrays})


@pytest.mark.parametrize("stretch", [1, 7, 10**6])
@pytest.mark.parametrize("value", [np.nan, np.inf, 700.0])
def test_the_row_at_fault_is_found_whatever_the_stretches_that_are_checked(monkeypatch, stretch, value):
    monkeypatch.setattr(validation, "STRETCH", stretch)
    for name, kind in ("log_prob", "class_posteriors"), ("responsibilities", "class_means"):
        array = arrays_of(kind, n=50)[name]
        arrays = {**arrays_of(kind, n=50), name: with_row(array, (37, 1), value)}
        with pytest.raises(MessageError, match=r"in row 37 \(1 such rows\)"):
            make_message(header(kind), arrays)
        make_message(header(kind), arrays_of(kind, n=50))


@pytest.mark.parametrize("stretch", [1, 7, 10**6])
@pytest.mark.parametrize("value", [np.nan, np.inf, 700.0])
def test_a_decoded_document_is_checked_in_every_row_whatever_the_stretches(monkeypatch, stretch, value):
    monkeypatch.setattr(validation, "STRETCH", stretch)
    for name, kind in ("log_prob", "class_posteriors"), ("responsibilities", "class_means"):
        sent = make_message(header(kind), arrays_of(kind, n=50))
        document, array = encode(sent), np.asarray(sent.arrays[name])
        assert decode(document)[name].tobytes() == array.tobytes()
        damaged = with_row(array, (37, 1), value)
        changed = document.replace(array.tobytes(), damaged.tobytes())
        assert changed != document
        with pytest.raises(MessageError, match=rf"{name} .* in row 37 \(1 such rows\)"):
            decode(changed)
