"""A Gaussian mixture alone, then a hidden Markov model of the same observation."""

import numpy as np

import runner as srk
from runner import gmm, mm


def main():
    obs = srk.Observation(np.loadtxt("data.txt"))
    correct_classes = np.loadtxt("correct.txt")

    g = gmm.GMM(4, category=correct_classes)
    g.connect(obs)
    g.update()

    g = gmm.GMM(4, category=correct_classes)
    m = mm.MarkovModel()

    g.connect(obs)
    m.connect(g)

    for _ in range(5):
        g.update()
        m.update()


if __name__ == "__main__":
    main()
