"""A GMM and an MM that learn for as long as a test wants them to, so that a death in an update needs no luck."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from actors.modules.markov import MarkovModel, MarkovParameters
from actors.modules.mixture.gmm import GMM, GMMParameters


class Patient:
    """Notes that an update has got so far, and where; waits while the test wants that, except in a chain.

    The file ``<module>-<round>-<chain>-<exchange>`` holds the number of the process's parent, which is the Ray daemon
    of the node.
    """

    def update(self, inbox, context):
        answer = super().update(inbox, context)
        hold = Path(self.parameters.hold)
        step = f"{self.name}-{context.round}"
        (hold / f"{step}-{context.chain}-{context.exchange}").write_text(str(os.getppid()))
        while context.chain == 0 and (hold / f"wait-{step}").exists():
            time.sleep(0.02)
        return answer


@dataclass(frozen=True)
class PatientGMMParameters(GMMParameters):
    hold: str = ""


class PatientGMM(Patient, GMM):
    name = "gmm"
    Parameters: ClassVar = PatientGMMParameters


@dataclass(frozen=True)
class PatientMarkovParameters(MarkovParameters):
    hold: str = ""


class PatientMarkov(Patient, MarkovModel):
    name = "mm"
    Parameters: ClassVar = PatientMarkovParameters
