"""Tests of the conformance checks: correct modules pass them, and each wrong module fails the intended check alone."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.conformance import ModuleChecks, iter_outcomes
from actors.conformance.harness import find_difference
from actors.conformance.sample_messages import (
    DEFAULT_SIZES,
    add_row_arrays,
    get_sizes,
    make_arrays,
    make_lengths,
    replace_masked_rows,
)
from actors.graph.registry import BUILT_IN
from actors.messaging.codec import make_message
from actors.messaging.kinds import KINDS, ArraySpec, Kind
from actors.messaging.message import Header
from actors.module import Port
from tests.support.sound_module import Sound

WRONG = "tests.support.wrong_modules"
ROOT = Path(__file__).parents[3]


class QuickChecks(ModuleChecks):
    """All checks except the one that needs Ray, which test_ray_runs.py runs."""

    test_it_survives_the_death_of_its_process = None


class TestSound(QuickChecks):
    module = f"{WRONG}:Sound"


class TestSoundWithWorkers(QuickChecks):
    module = f"{WRONG}:SoundShared"


class TestObservation(QuickChecks):
    module = "observation"


class TestLabels(QuickChecks):
    module = "labels"
    parameters = {"classes": 3, "confidence": 0.9}

    def initial_state(self, sizes, generator):
        return {"values": generator.integers(-1, 3, (sizes["N"], 1)).astype(float)}


class TestVAE(QuickChecks):
    module = "vae"
    parameters = {"latent_dim": 2, "epochs": 2, "batch_size": 10, "hidden": 4}


class TestVAEOfPictures(QuickChecks):
    module = "vae"
    parameters = {"latent_dim": 2, "epochs": 2, "batch_size": 10, "hidden": 4, "networks": "conv", "filters": [2],
                  "augment": {"shift": 1}}  # fmt: skip
    sizes = {"...": (4, 5)}


class TestGMM(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2}


class TestGMMWithTheTutorialRule(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "rule": "tutorial"}


class TestGMMWithVariationalBayes(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "engine": "vb"}


class TestGMMOfSeveralComponents(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "engine": "vb", "components": 2, "start": "contexts"}


class TestGMMWithBlockedGibbsSampling(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "engine": "blocked-gibbs"}


class TestGMMOfSeveralSampledComponents(QuickChecks):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "engine": "blocked-gibbs", "components": 2}


class TestMarkovModel(QuickChecks):
    module = "markov"


class TestMarkovModelWithTheTutorialRule(QuickChecks):
    module = "markov"
    parameters = {"rule": "tutorial", "num_samp": 5}


class TestMarkovModelWithDurations(QuickChecks):
    module = "markov"
    parameters = {"durations": "negative_binomial", "max_duration": 12}


class TestSwitchingMarkov(QuickChecks):
    module = "switching_markov"
    parameters = {"regimes": 3}


class TestProduct(QuickChecks):
    module = "product"


class TestPCA(QuickChecks):
    module = "pca"
    parameters = {"latent_dim": 2}
    flexible = ("...",)


class TestNetwork(QuickChecks):
    module = "network"
    parameters = {"epochs": 2, "batch_size": 10, "hidden": 4, "input_steps": 3}


class TestMLDA(QuickChecks):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "restarts": 1, "samples": 2, "weights": {"below": 20}}  # of proportions


class TestMLDAWithWeights(QuickChecks):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "start": "tokens", "weights": {"below": 9}}


class TestMLDAWithVariationalBayes(QuickChecks):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "engine": "vb", "restarts": 1, "weights": {"below": 20}}


class TestMLDAOfRowsThatLackCounts(QuickChecks):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "restarts": 1, "samples": 2, "weights": {"below": 20}}

    def inbox(self, ports, sizes, generator):
        messages = super().inbox(ports, sizes, generator)
        if "observations" in messages:
            values = messages["observations"]["values"]
            mask = np.random.default_rng(5).random(values.shape) < 0.3
            messages["observations"]["mask"] = mask
        return messages


class TestDPGMM(QuickChecks):
    module = "dp_gmm"
    parameters = {"most": 5, "iterations": 2}


class TestARGMM(QuickChecks):
    module = "ar_gmm"
    parameters = {"classes": 3, "iterations": 2, "start": "random"}


class TestARGMMBySampling(QuickChecks):
    module = "ar_gmm"
    parameters = {"classes": 3, "iterations": 2, "order": 2, "engine": "blocked-gibbs"}


class TestModuleGivenAsAClass(QuickChecks):
    module = Sound
    parameters = {"classes": 4}
    rows = 9
    sizes = {"D": 2, "...": (3, 2)}


CHECK_CLASSES = [cls for name, cls in list(globals().items()) if name.startswith("Test")]
"""All test classes above."""


def test_every_built_in_module_is_checked():
    assert {cls.module for cls in CHECK_CLASSES} >= set(BUILT_IN)


def check_outcomes(module, **attributes):
    """Return the outcome of each check of a module, by name."""
    checks = type("Checks", (QuickChecks,), {"module": module, **attributes})
    return {outcome.name: outcome for outcome in iter_outcomes(checks)}


def failure_sentences(module, **attributes):
    """Return the sentence of each check that a module fails, by name."""
    found = check_outcomes(module, **attributes).values()
    return {outcome.name: outcome.sentence for outcome in found if outcome.verdict == "failed"}


FAULTS = [
    ("NoDocstring", "its_declaration_is_valid", "no docstring"),
    ("InvalidDefault", "its_declaration_is_valid", "the default of parameter .*classes.* greater than or equal to 3"),
    ("Unnormalised", "its_results_are_valid", "log_prob does not sum to one in row 0"),
    ("UndeclaredPort", "its_results_are_valid", "module.reconstruction: no such output port"),
    ("NaNMetric", "its_results_are_valid", "evidence is nan"),
    ("MetricOfTheEvent", "its_results_are_valid", "a metric has the name 'round', which is a field of the event"),
    ("MetricWithSpace", "its_results_are_valid", "a metric has the name 'mean loss', expected letters, digits and '_'"),
    ("TextMetric", "its_results_are_valid", "loss is a str, expected a real number"),
    ("ListOutput", "its_results_are_valid", "output 'history' is a list, expected an array; use numpy.atleast_1d"),
    ("ScalarOutput", "its_results_are_valid", "output 'total' has 0 dimensions, expected 1 to 8"),
    ("MaskedOutput", "its_results_are_valid", "output 'total' is a masked array"),
    ("OutputElsewhere", "its_results_are_valid", "an output has the name '../../total', expected the name of a file"),
    ("OutputsOfOneFile", "its_results_are_valid", "'class' and 'Class' have the same file name"),
    ("MaskedMessage", "its_results_are_valid", "values is a masked array, whose mask would be lost"),
    (
        "GeneratesScalars",
        "its_results_are_valid",
        "result of generate is not valid: .* output 'x' has 0 dimensions",
    ),
    ("LearnsFromMaskedRows", "missing_rows_have_no_influence", "the values in masked rows have an influence: state"),
    ("DropsTheMask", "it_passes_the_mask_on", "'posteriors' has mask None"),
    ("DropsTheLengths", "it_passes_the_lengths_of_sequences_on", r"lengths None, .*\[8 8 8\]"),
    ("NestedState", "its_state_is_flat_and_can_be_saved_and_loaded", "'all' is dict"),
    ("TextArrayInState", "its_state_is_flat_and_can_be_saved_and_loaded", "'words' is an array of <U1"),
    ("TupleInState", "its_state_is_flat_and_can_be_saved_and_loaded", "'shape' is tuple"),
    ("MaskedArrayInState", "its_state_is_flat_and_can_be_saved_and_loaded", "'seen' is a masked array"),
    ("ReservedNameInState", "its_state_is_flat_and_can_be_saved_and_loaded", "'__metadata__' is not a valid name"),
    ("IntegerNameInState", "its_state_is_flat_and_can_be_saved_and_loaded", "3 is a name of type int, expected a str"),
    ("IncompleteLoad", "load_state_restores_the_whole_state", "loaded into a trained module: start"),
    ("RaisesOnEmptyState", "an_empty_state_resets_the_module", "load_state raised KeyError"),
    ("IgnoresEmptyState", "an_empty_state_resets_the_module", "start is missing the first time"),
    ("SharesStateArrays", "a_returned_state_does_not_change_later", "return copies"),
    ("ReturnsItsOwnArrays", "a_returned_state_does_not_change_later", "own array 'start', .*return copies"),
    ("IncompleteState", "updates_continue_exactly_from_a_loaded_state", "update 2 differs after load_state"),
    ("KeepsReadOnlyArrays", "updates_continue_exactly_from_a_loaded_state", "read-only"),
    ("DrawsFromGlobalGenerator", "its_random_draws_depend_on_the_seed_alone", r"generator \(numpy.random\)"),
    ("SeedsGlobalGenerator", "its_random_draws_depend_on_the_seed_alone", r"generator \(numpy.random\)"),
    ("WritesIntoMessages", "it_does_not_modify_its_messages", "read-only; copy an array to change it"),
    ("MakesMessagesWritable", "it_does_not_modify_its_messages", "update changes its messages: rows 'mean'"),
    (
        "RequiresOptionalMessage",
        "optional_messages_may_be_absent",
        "KeyError: 'below'.*port 'pictures' is declared optional",
    ),
    (
        "RaisesKeyErrorWithoutMessage",
        "it_refuses_to_do_without_required_messages",
        "update with messages on pictures raised KeyError",
    ),
    (
        "AcceptsAbsentMessage",
        "it_refuses_to_do_without_required_messages",
        "update returns a result without the required message on port 'rows'",
    ),
    ("RefusesMaskedRows", "recognition_accepts_inputs_with_every_row_masked", "every row is missing"),
    ("NeedsSeveralRows", "it_handles_a_single_row", "LinAlgError"),
    ("DividesBySequenceRows", "it_handles_sequences_without_unmasked_rows", "is nan"),
    ("ChecksNoShape", "it_refuses_messages_of_another_shape", "raised ValueError"),
    ("TruncatesPrior", "it_refuses_messages_of_another_shape", "on port 'prior' with N = 25, which does not fit"),
    (
        "ChangesBeforeRefusal",
        "it_refuses_messages_of_another_shape",
        "refuses a message on port .* but changes the state",
    ),
    ("LearnsAtRecognition", "recognition_learns_nothing", "recognize changes the state: centres"),
    ("UnrepeatableRecognition", "recognition_learns_nothing", "other bits when it is called again"),
    ("RemembersRecognition", "recognition_learns_nothing", "an update differs after a recognition"),
    ("LearnsWhileGenerating", "generation_and_proposals_learn_nothing", "generate changes the state: centres"),
    ("RecognizesUntrained", "it_answers_or_refuses_before_its_first_update", "recognition .* raised"),
    ("NeedsToLearn", "it_can_update_without_learning", "ZeroDivisionError"),
    ("InvalidProgress", "its_progress_reports_are_valid", "3 of 2"),
    ("RemembersChunks", "any_number_of_workers_gives_the_same_bits", "2 workers give other results than one: metric"),
    ("AveragesRows", "its_statistics_add_up", "'rows' of chunks do not add up to those of all rows"),
    ("ChangesParameters", "a_pass_does_not_change_the_parameters", "changes the parameters that it was given"),
    ("MergesMeans", "runs_that_it_has_learnt_in_can_be_merged", "merged statistics are other ones.*: centres"),
    ("IgnoresPrior", "", ""),  # which is permitted
    ("StateInAGlobalVariable", "", ""),  # visible with several processes alone, see test_ray_runs.py
]
"""Wrong module, the check that it fails, and the regular expression of the failure sentence."""


@pytest.mark.parametrize(("name", "check", "sentence"), FAULTS)
def test_a_wrong_module_fails_the_intended_check_alone(name, check, sentence):
    found = failure_sentences(f"{WRONG}:{name}")
    assert list(found) == ([check] if check else []), found
    for failure in found.values():
        assert failure.startswith(f"{WRONG}:{name}: ")
        assert re.search(sentence, failure), failure


def test_every_check_is_failed_by_a_wrong_module():
    checks = {name.removeprefix("test_") for name in dir(ModuleChecks) if name.startswith("test_")}
    on_ray = {"it_survives_the_death_of_its_process"}  # tests/actors/conformance/test_ray_runs.py
    assert checks - on_ray == {check for _, check, _ in FAULTS if check}


def test_the_mistake_that_the_guide_names_is_found(tmp_path, monkeypatch):
    """docs/guide.md: a `state` that returns its own arrays, into which the module never writes."""
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0]
    assert code.count("self.rates.copy()") == 1
    (tmp_path / "counting_right.py").write_text(code)
    (tmp_path / "counting_wrong.py").write_text(code.replace("self.rates.copy()", "self.rates"))
    monkeypatch.syspath_prepend(tmp_path)
    short = {"parameters": {"classes": 4, "iterations": 3}}
    assert failure_sentences("counting_right:Counting", **short) == {}
    (failure,) = failure_sentences("counting_wrong:Counting", **short).items()
    assert failure[0] == "a_returned_state_does_not_change_later"
    assert "returns the module's own array 'rates', which can change; return copies of arrays" in failure[1]


# --- what an author can override --------------------------------------------------------------------------------------


class OwnKind(Sound):
    """Receives its rows in a message kind of its own."""

    ports = (Port("angles", "in", "forward", "joint_angles"), *Sound.ports[3:])

    def read(self, inbox, context):
        message = inbox.require("angles")
        return super().read(type(inbox)([_to_latent_vectors(message)]), context)

    def make_outbox(self, inbox, context, X, prior):
        return super().make_outbox(type(inbox)([_to_latent_vectors(inbox.require("angles"))]), context, X, prior)


def _to_latent_vectors(message):
    arrays = {name: array for name, array in message.arrays.items() if name != "angles"}
    return make_message(Header("latent_vectors", "below", "rows"), {"mean": message["angles"], **arrays})


def test_a_module_may_have_message_kinds_of_its_own(monkeypatch):
    rows = KINDS["observations"].arrays[1:]
    kind = Kind("joint_angles", (ArraySpec("angles", ("N", "J")), *rows))
    monkeypatch.setitem(KINDS, "joint_angles", kind)
    found = check_outcomes(OwnKind)
    assert {name: outcome.sentence for name, outcome in found.items() if outcome.verdict == "failed"} == {}
    assert found["missing_rows_have_no_influence"].verdict == "passed"


class RestrictedValues(Sound):
    """Requires integral rows, and pictures whose width is the largest value of the rows."""

    def check_shapes(self, X, pictures, prior, context):
        super().check_shapes(X, pictures, prior, context)
        assert (X.round() == X).all()
        assert pictures is None or pictures.shape[1] == X.max()


def test_an_author_can_override_the_messages():
    assert "AssertionError" in failure_sentences(RestrictedValues)["its_results_are_valid"]

    def inbox(self, ports, sizes, generator):
        found = super(QuickChecks, self).inbox(ports, sizes, generator)
        for name in {"rows"} & set(found):
            found[name] = {"mean": generator.integers(0, 5, found[name]["mean"].shape).astype(float)}
            found[name]["mean"][0, 0] = 5.0
        return found

    left_out = dict.fromkeys(("test_missing_rows_have_no_influence", "test_it_refuses_messages_of_another_shape"))
    assert failure_sentences(RestrictedValues, inbox=inbox, **left_out) == {}


def test_an_author_can_override_the_combinations_of_inputs():
    def offers(self):
        return [("latent_vectors",)]

    checks = type("Checks", (QuickChecks,), {"module": "gmm", "offers": offers})()
    assert [[port.name for port in case.forward_ports] for case in checks.cases] == [["latent_vectors"]]
    assert [[port.name for port in case.forward_ports] for case in TestGMM().cases] == [
        ["latent_vectors"], ["observations"], ["latent_vectors", "observations"],
    ]  # fmt: skip


def test_messages_from_above_have_the_sizes_of_the_messages_sent_upwards():
    (case,) = TestVAE().cases
    assert case.later_messages["class_means"]["means"].shape == (4, 2)
    assert TestGMM().cases[0].later_messages["transition_prior"]["log_prob"].shape == (24, 3)
    (case,) = TestObservation().cases
    assert case.later_messages["reconstructions"]["values"].shape == (24, 5)


class RestartsForAnotherWidth(Sound):
    """Learns from scratch when its rows have another width."""

    def update(self, inbox, context):
        message = inbox.first("rows")
        if message and self.centres is not None and self.centres.shape[1] != message["mean"].shape[1]:
            self.reset()
        return super().update(inbox, context)


class RecognizesAnyWidth(RestartsForAnotherWidth):
    """Accepts rows of any width at recognition too."""

    def recognize(self, inbox, context):
        message = inbox.first("rows")
        if message and self.centres is not None and self.centres.shape[1] < message["mean"].shape[1]:
            return self.update(inbox, context)
        return super().recognize(inbox, context)


def test_an_author_can_list_the_sizes_that_may_change_between_updates():
    name = "it_refuses_messages_of_another_shape"
    failure = "accepts a message on port 'rows' with D = 4, which does not fit"
    assert f"update {failure}" in failure_sentences(RestartsForAnotherWidth)[name]
    assert failure_sentences(RestartsForAnotherWidth, flexible=("D",)) == {}
    assert f"recognize {failure}" in failure_sentences(RecognizesAnyWidth, flexible=("D",))[name]


def test_a_module_that_cannot_be_found_fails_every_check():
    assert all("no_such" in sentence for sentence in failure_sentences("no_such:Module").values())

    class Local(Sound):
        """Cannot be imported by name."""

    assert "Local" in failure_sentences(Local)["its_results_are_valid"]


def test_a_check_that_does_not_apply_reports_the_reason():
    found = check_outcomes("observation")["missing_rows_have_no_influence"]
    assert (found.verdict, found.sentence) == (
        "not applicable", "observation: the module receives nothing from below",
    )  # fmt: skip
    checks = type("Checks", (ModuleChecks,), {"module": Sound, "under_ray": False})
    assert list(iter_outcomes(checks))[-1].verdict == "not applicable"


AUTHOR = """
from actors.conformance import ModuleChecks
from tests.support.wrong_modules import LearnsAtRecognition

class TestMine(ModuleChecks):
    module = LearnsAtRecognition
    under_ray = False
"""


def test_pytest_collects_a_subclass_of_the_checks(tmp_path):
    (tmp_path / "test_mine.py").write_text(AUTHOR)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert "1 failed, 22 passed, 5 skipped" in done.stdout
    assert "LearnsAtRecognition: recognize changes the state: centres" in done.stdout
    assert done.returncode == 1


# --- sample messages and comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KINDS))
def test_sample_messages_of_every_kind_are_valid(name):
    kind, rng = KINDS[name], np.random.default_rng(0)
    sizes = {**DEFAULT_SIZES, "N": 7}
    arrays = make_arrays(kind, sizes, rng)
    mask = np.arange(7) % 3 == 0
    for sent in (
        arrays,
        add_row_arrays(kind, arrays, mask=mask, lengths=make_lengths(7)),
        replace_masked_rows(kind, arrays, mask, rng),
    ):
        message = make_message(Header(name, "below", "port"), sent)
        assert get_sizes(kind, message.arrays)["N"] == 7
    assert {letter: sizes[letter] for letter in get_sizes(kind, arrays) if letter != "..."}.items() <= sizes.items()


def test_masked_rows_are_replaced_and_the_others_stay():
    kind, rng = KINDS["class_posteriors"], np.random.default_rng(0)
    arrays = make_arrays(kind, {"N": 7, "K": 3}, rng)
    mask = np.arange(7) == 2
    filled = replace_masked_rows(kind, arrays, mask, rng)
    for name, array in arrays.items():
        assert (filled[name][2] != array[2]).all()
        assert np.array_equal(filled[name][~mask], array[~mask])


@pytest.mark.parametrize(
    ("first", "second", "description"),
    [
        ({"a": np.arange(3)}, {"a": np.arange(3)}, None),
        ({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, np.nan])}, None),
        ({"a": np.float64(1.0), "b": None}, {"a": 1.0, "b": None}, None),
        ({"a": np.array([0.0, 1.0])}, {"a": np.array([-0.0, 1.0])}, "a is 0.0 the first time and -0.0 .*"),
        (
            {"a": np.arange(3)},
            {"a": np.array([0, 5, 2])},
            r"a is 1 the first time and 5 the second time at \(1,\) \(1 of 3 differ",
        ),
        ({"a": np.arange(3)}, {"a": np.arange(3.0)}, r"a is int64 \(3,\) the first time and float64 \(3,\)"),
        ({"a": 1}, {"a": True}, "a is 1 the first time and True the second time"),
        ({"a": 1}, {}, "a is missing the second time"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a 'b' is 1 the first time and 2 the second time"),
    ],
)
def test_values_are_compared_bit_by_bit(first, second, description):
    found = find_difference(first, second)
    assert found is None if description is None else re.match(description, found), found
