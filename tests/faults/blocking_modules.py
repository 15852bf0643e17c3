"""A GMM and a Markov model whose updates block until a test lets them finish, so that it can kill them in an update."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from actors.modules.markov import MarkovModel, MarkovParameters
from actors.modules.mixture.gmm import GMM, GMMParameters


class Blocking:
    """Marks the end of each update in the directory `markers`, and then blocks for as long as a test wants.

    The file ``<module>-<round>-<chain>-<exchange>`` holds the id of the process's parent, the Ray daemon of the node.
    Outside chains, the update then waits for as long as the file ``wait-<module>-<round>`` exists.
    """

    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        markers = Path(self.parameters.markers)
        update = f"{self.name}-{context.round}"
        (markers / f"{update}-{context.chain}-{context.exchange}").write_text(str(os.getppid()))
        while context.chain == 0 and (markers / f"wait-{update}").exists():
            time.sleep(0.02)
        return outbox


@dataclass(frozen=True)
class BlockingGMMParameters(GMMParameters):
    markers: str = ""


class BlockingGMM(Blocking, GMM):
    name = "gmm"
    Parameters: ClassVar = BlockingGMMParameters


@dataclass(frozen=True)
class BlockingMarkovParameters(MarkovParameters):
    markers: str = ""


class BlockingMarkov(Blocking, MarkovModel):
    name = "mm"
    Parameters: ClassVar = BlockingMarkovParameters
