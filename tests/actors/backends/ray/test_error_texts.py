"""Tests of the texts of errors that come from a module's process; no cluster is needed."""

import pytest

from actors.backends.ray.backend import _name_once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("module 'gmm', round 1, step 0: the loss is nan", "module 'gmm', round 1, step 0: the loss is nan"),
        ("module 'gmm': every row is missing", "module 'gmm': every row is missing"),
        (
            "vae -> gmm.z (latent_vectors): mean is missing",
            "module 'gmm': vae -> gmm.z (latent_vectors): mean is missing",
        ),
        ("module 'gmm2': is another one", "module 'gmm': module 'gmm2': is another one"),
        ("", "module 'gmm': "),
    ],
)
def test_an_error_names_its_module_once(text, expected):
    assert _name_once("module 'gmm'", text) == expected
