"""Features of a convolutional network and words: needs a feature extractor that this software has not."""

import numpy as np

import runner as srk
from runner import CNN, mlda


def main():
    obs1 = CNN.CNNFeatureExtractor([f"images/{i:03d}.png" for i in range(6)])
    obs2 = srk.Observation(np.loadtxt("histogram_w.txt"))

    mlda1 = mlda.MLDA(3, [1000])
    mlda2 = mlda.MLDA(3, [50])
    mlda3 = mlda.MLDA(3, [50, 50])

    mlda1.connect(obs1)
    mlda2.connect(obs2)
    mlda3.connect(mlda1, mlda2)

    for _ in range(5):
        mlda1.update()
        mlda2.update()
        mlda3.update()


if __name__ == "__main__":
    main()
