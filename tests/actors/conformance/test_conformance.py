"""The checks that a plug-in's author runs: sound modules pass them, and each wrong one fails the right check alone."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.conformance import ModuleChecks, outcomes
from actors.conformance.harness import difference
from actors.conformance.sample_messages import SIZES, make_arrays, of_rows, refilled, sizes_in, split
from actors.graph.registry import BUILT_IN
from actors.messaging.codec import make_message
from actors.messaging.kinds import KINDS, ArraySpec, Kind
from actors.messaging.message import Header
from actors.module import Port
from tests.support.sound_module import Sound

WRONG = "tests.support.wrong_modules"
ROOT = Path(__file__).parents[3]


class Quick(ModuleChecks):
    """Without the check that needs Ray, which is in tests/actors/conformance/test_ray_runs.py."""

    test_it_survives_the_death_of_its_process = None


class TestSound(Quick):
    module = f"{WRONG}:Sound"


class TestObservation(Quick):
    module = "observation"


class TestVAE(Quick):
    module = "vae"
    parameters = {"latent_dim": 2, "epochs": 2, "batch_size": 10, "hidden": 4}


class TestGMM(Quick):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2}


class TestGMMOfTheTutorial(Quick):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "rule": "tutorial"}


class TestGMMByVariationalBayes(Quick):
    module = "gmm"
    parameters = {"classes": 3, "iterations": 2, "engine": "vb"}


class TestMarkovModel(Quick):
    module = "markov"


class TestMarkovModelOfTheTutorial(Quick):
    module = "markov"
    parameters = {"rule": "tutorial", "num_samp": 5}


class TestProduct(Quick):
    module = "product"


class TestPCA(Quick):
    module = "pca"
    parameters = {"latent_dim": 2}
    flexible = ("...",)


class TestNetwork(Quick):
    module = "network"
    parameters = {"epochs": 2, "batch_size": 10, "hidden": 4, "input_steps": 3}


class TestMLDA(Quick):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "restarts": 1, "samples": 2}


class TestMLDAOfWeights(Quick):
    module = "mlda"
    parameters = {"topics": 3, "iterations": 3, "start": "tokens", "weights": {"below": 9}}


class TestDPGMM(Quick):
    module = "dp_gmm"
    parameters = {"most": 5, "iterations": 2}


class TestOfAClass(Quick):
    module = Sound
    parameters = {"classes": 4}
    rows = 9
    sizes = {"D": 2, "...": (3, 2)}


OF_MODULES = [cls for name, cls in list(globals().items()) if name.startswith("Test")]
"""All of these."""


def test_every_built_in_module_is_checked():
    assert {cls.module for cls in OF_MODULES} >= set(BUILT_IN)


def verdicts(module, **attributes):
    """What came of each check of a module."""
    return {found.name: found for found in outcomes(type("Checks", (Quick,), {"module": module, **attributes}))}


def failed(module, **attributes):
    """What is said by each check that a module fails."""
    found = verdicts(module, **attributes).values()
    return {outcome.name: outcome.sentence for outcome in found if outcome.verdict == "failed"}


FAULTS = [
    ("Undocumented", "it_declares_itself_well", "no docstring"),
    ("BadDefault", "it_declares_itself_well", "the default of parameter .*classes.* greater than or equal to 3"),
    ("Unnormalised", "what_it_sends_is_valid", "log_prob does not sum to one in row 0"),
    ("Misspelling", "what_it_sends_is_valid", "module.reconstruction: no such output port"),
    ("Infinite", "what_it_sends_is_valid", "evidence is nan"),
    ("Maskless", "missing_rows_have_no_influence", "rows that are masked have an influence: state"),
    ("DropsTheMask", "it_passes_the_mask_on", "'posteriors' has mask None"),
    ("DropsTheLengths", "it_passes_the_lengths_of_sequences_on", r"lengths None, .*\[8 8 8\]"),
    ("Nested", "its_state_is_flat_and_comes_back_from_disk", "'all' is dict"),
    ("Wordy", "its_state_is_flat_and_comes_back_from_disk", "'words' is an array of <U1"),
    ("Stale", "another_module_takes_over_its_whole_state", "one that has learnt .*start"),
    ("Unempty", "an_empty_state_is_that_of_a_module_that_has_learnt_nothing", "load_state raised KeyError"),
    ("Clinging", "an_empty_state_is_that_of_a_module_that_has_learnt_nothing", "start is missing|start is there"),
    ("Aliasing", "a_state_that_was_taken_stays_as_it_is", "give copies"),
    ("Forgetful", "it_goes_on_from_its_state_as_if_nothing_had_happened", "update 2 is another one"),
    ("Borrowing", "it_goes_on_from_its_state_as_if_nothing_had_happened", "read-only"),
    ("Unseeded", "its_draws_follow_from_the_seed_alone", r"generator \(numpy.random\)"),
    ("Reseeding", "its_draws_follow_from_the_seed_alone", r"generator \(numpy.random\)"),
    ("Scribbling", "it_leaves_its_messages_as_they_were", "read-only: copy what is to change"),
    ("PickingTheLock", "it_leaves_its_messages_as_they_were", "update changes its messages: rows 'mean'"),
    ("Needy", "it_does_without_each_optional_message", "KeyError: 'below'.*port 'pictures' is declared optional"),
    ("Blunt", "it_says_which_message_it_needs", "update with messages on pictures raised KeyError"),
    ("Guessing", "it_says_which_message_it_needs", "update answers without the required message on port 'rows'"),
    ("Demanding", "it_answers_where_a_source_is_missing_throughout", "every row is missing"),
    ("Crowded", "it_can_do_with_one_row", "LinAlgError"),
    ("PerSequence", "it_bears_empty_sequences", "is nan"),
    ("Careless", "it_refuses_messages_of_another_shape", "raised ValueError"),
    ("Truncating", "it_refuses_messages_of_another_shape", "on port 'prior' with N = 25, which does not fit"),
    ("Rash", "it_refuses_messages_of_another_shape", "refuses a message on port .* and yet learns"),
    ("Curious", "recognition_learns_nothing", "recognize changes the state: centres"),
    ("Moody", "recognition_learns_nothing", "other bits when it is asked again"),
    ("Tracing", "recognition_learns_nothing", "leaves a trace"),
    ("Dreaming", "generating_and_proposing_learn_nothing", "generate changes the state: centres"),
    ("Presumptuous", "it_says_so_where_it_has_learnt_nothing_yet", "recognition .* raised"),
    ("Stubborn", "it_can_be_asked_not_to_learn", "ZeroDivisionError"),
    ("Boastful", "it_says_how_far_it_is", "3 of 2"),
    ("Deaf", "", ""),  # that is no fault
    ("Elsewhere", "", ""),  # in one process nothing shows
]  # fmt: skip
"""Who is wrong, which check says so, and in which words."""


@pytest.mark.parametrize(("name", "check", "said"), FAULTS)
def test_a_wrong_module_fails_the_right_check_alone(name, check, said):
    found = failed(f"{WRONG}:{name}")
    assert list(found) == ([check] if check else []), found
    for sentence in found.values():
        assert sentence.startswith(f"{WRONG}:{name}: ")
        assert re.search(said, sentence), sentence


def test_every_check_finds_somebody_wrong():
    found = {name.removeprefix("test_") for name in dir(ModuleChecks) if name.startswith("test_")}
    elsewhere = {"it_survives_the_death_of_its_process"}  # tests/actors/conformance/test_ray_runs.py
    assert found - elsewhere == {check for _, check, _ in FAULTS if check}


# --- what an author can say -------------------------------------------------------------------------------------------


class Angular(Sound):
    """Hears of its rows in a kind of its own."""

    ports = (Port("angles", "in", "forward", "joint_angles"), *Sound.ports[3:])

    def read(self, inbox, context):
        message = inbox.require("angles")
        return super().read(type(inbox)([_as_rows(message)]), context)

    def answer(self, inbox, context, X, prior):
        return super().answer(type(inbox)([_as_rows(inbox.require("angles"))]), context, X, prior)


def _as_rows(message):
    arrays = {name: array for name, array in message.arrays.items() if name != "angles"}
    return make_message(Header("latent_vectors", "below", "rows"), {"mean": message["angles"], **arrays})


def test_kinds_of_its_own_are_no_trouble(monkeypatch):
    rows = KINDS["observations"].arrays[1:]
    kind = Kind("joint_angles", (ArraySpec("angles", ("N", "J")), *rows))
    monkeypatch.setitem(KINDS, "joint_angles", kind)
    found = verdicts(Angular)
    assert {name: outcome.sentence for name, outcome in found.items() if outcome.verdict == "failed"} == {}
    assert found["missing_rows_have_no_influence"].verdict == "passed"


class Choosy(Sound):
    """Wants to see whole numbers, and pictures that are as many as the rows are high."""

    def check(self, X, pictures, prior, context):
        super().check(X, pictures, prior, context)
        assert (X.round() == X).all()
        assert pictures is None or pictures.shape[1] == X.max()


def test_an_author_says_which_messages_make_sense():
    assert "AssertionError" in failed(Choosy)["what_it_sends_is_valid"]

    def inbox(self, ports, sizes, generator):
        found = super(Quick, self).inbox(ports, sizes, generator)
        for name in {"rows"} & set(found):
            found[name] = {"mean": generator.integers(0, 5, found[name]["mean"].shape).astype(float)}
            found[name]["mean"][0, 0] = 5.0
        return found

    left_out = dict.fromkeys(("test_missing_rows_have_no_influence", "test_it_refuses_messages_of_another_shape"))
    assert failed(Choosy, inbox=inbox, **left_out) == {}


def test_an_author_says_which_inputs_go_together():
    def offers(self):
        return [("latent_vectors",)]

    checks = type("Checks", (Quick,), {"module": "gmm", "offers": offers})()
    assert [[port.name for port in case.ports] for case in checks.cases] == [["latent_vectors"]]
    assert [[port.name for port in case.ports] for case in TestGMM().cases] == [
        ["latent_vectors"], ["observations"], ["latent_vectors", "observations"],
    ]  # fmt: skip


def test_messages_from_above_are_as_large_as_what_the_module_sends_up():
    (case,) = TestVAE().cases
    assert case.later["class_means"]["means"].shape == (4, 2)
    assert TestGMM().cases[0].later["transition_prior"]["log_prob"].shape == (24, 3)
    (case,) = TestObservation().cases
    assert case.later["reconstructions"]["values"].shape == (24, 5)


class Elastic(Sound):
    """Begins anew where its rows have another width."""

    def update(self, inbox, context):
        message = inbox.first("rows")
        if message and self.centres is not None and self.centres.shape[1] != message["mean"].shape[1]:
            self.forget()
        return super().update(inbox, context)


class Fluid(Elastic):
    """Answers rows of any width."""

    def recognize(self, inbox, context):
        message = inbox.first("rows")
        if message and self.centres is not None and self.centres.shape[1] < message["mean"].shape[1]:
            return self.update(inbox, context)
        return super().recognize(inbox, context)


def test_an_author_says_which_sizes_may_change_between_updates():
    name, said = "it_refuses_messages_of_another_shape", "takes a message on port 'rows' with D = 4, which does not fit"
    assert f"update {said}" in failed(Elastic)[name]
    assert failed(Elastic, flexible=("D",)) == {}
    assert f"recognize {said}" in failed(Fluid, flexible=("D",))[name]


def test_a_module_that_cannot_be_found_fails_every_check():
    assert all("no_such" in sentence for sentence in failed("no_such:Module").values())

    class Local(Sound):
        """Nobody finds it by name."""

    assert "Local" in failed(Local)["what_it_sends_is_valid"]


def test_checks_that_do_not_apply_say_why():
    found = verdicts("observation")["missing_rows_have_no_influence"]
    assert (found.verdict, found.sentence) == (
        "not applicable", "observation: the module receives nothing from below",
    )  # fmt: skip
    checks = type("Checks", (ModuleChecks,), {"module": Sound, "under_ray": False})
    assert list(outcomes(checks))[-1].verdict == "not applicable"


AUTHOR = """
from actors.conformance import ModuleChecks
from tests.support.wrong_modules import Curious

class TestMine(ModuleChecks):
    module = Curious
    under_ray = False
"""


def test_pytest_collects_what_an_author_writes(tmp_path):
    (tmp_path / "test_mine.py").write_text(AUTHOR)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert "1 failed, 22 passed, 1 skipped" in done.stdout
    assert "Curious: recognize changes the state: centres" in done.stdout
    assert done.returncode == 1


# --- what they are made of --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KINDS))
def test_messages_made_up_are_valid_whatever_their_kind(name):
    kind, rng = KINDS[name], np.random.default_rng(0)
    sizes = {**SIZES, "N": 7}
    arrays = make_arrays(kind, sizes, rng)
    mask = np.arange(7) % 3 == 0
    for sent in (arrays, of_rows(kind, arrays, mask=mask, lengths=split(7)), refilled(kind, arrays, mask, rng)):
        message = make_message(Header(name, "below", "port"), sent)
        assert sizes_in(kind, message.arrays)["N"] == 7
    assert {letter: sizes[letter] for letter in sizes_in(kind, arrays) if letter != "..."}.items() <= sizes.items()


def test_refilled_rows_are_others_and_the_rest_stay():
    kind, rng = KINDS["class_posteriors"], np.random.default_rng(0)
    arrays = make_arrays(kind, {"N": 7, "K": 3}, rng)
    mask = np.arange(7) == 2
    filled = refilled(kind, arrays, mask, rng)
    for name, array in arrays.items():
        assert (filled[name][2] != array[2]).all()
        assert np.array_equal(filled[name][~mask], array[~mask])


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": np.arange(3)}, {"a": np.arange(3)}, None),
        ({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, np.nan])}, None),
        ({"a": np.float64(1.0), "b": None}, {"a": 1.0, "b": None}, None),
        ({"a": np.array([0.0, 1.0])}, {"a": np.array([-0.0, 1.0])}, "a is 0.0 once and -0.0 .*"),
        (
            {"a": np.arange(3)},
            {"a": np.array([0, 5, 2])},
            r"a is 1 once and 5 the second time at \(1,\) \(1 of 3 differ",
        ),
        ({"a": np.arange(3)}, {"a": np.arange(3.0)}, r"a is int64 \(3,\) once and float64 \(3,\)"),
        ({"a": 1}, {"a": True}, "a is 1 once and True the second time"),
        ({"a": 1}, {}, "a is missing the second time"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a 'b' is 1 once"),
    ],
)
def test_a_difference_is_one_to_the_bit(one, other, said):
    found = difference(one, other)
    assert found is None if said is None else re.match(said, found), found
