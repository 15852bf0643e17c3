"""A GMM that learns for as long as a test wants it to, so that a death in its update needs no luck."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from actors.gmm import GMM, GMMParameters
from actors.markov import MarkovModel, MarkovParameters


def linger(module, parameters, context):
    """Note that the update has got so far, and where; wait while the test wants that, except in a chain.

    The file ``<module>-<round>-<chain>-<exchange>`` holds the number of the process's parent, which is the Ray daemon
    of the node.
    """
    hold = Path(parameters.hold)
    (hold / f"{module}-{context.round}-{context.chain}-{context.exchange}").write_text(str(os.getppid()))
    while context.chain == 0 and (hold / f"wait-{module}-{context.round}").exists():
        time.sleep(0.02)


@dataclass(frozen=True)
class PatientGMMParameters(GMMParameters):
    hold: str = ""


class PatientGMM(GMM):
    Parameters: ClassVar = PatientGMMParameters

    def update(self, inbox, context):
        answer = super().update(inbox, context)
        linger("gmm", self.parameters, context)
        return answer


@dataclass(frozen=True)
class PatientMarkovParameters(MarkovParameters):
    hold: str = ""


class PatientMarkov(MarkovModel):
    Parameters: ClassVar = PatientMarkovParameters

    def update(self, inbox, context):
        answer = super().update(inbox, context)
        linger("mm", self.parameters, context)
        return answer
