"""Objects and motions: MLDA over the MLDA of an object (seen, heard, felt) and that of its motion."""

import numpy as np

import runner as srk
from runner import mlda


def main():
    obs1 = srk.Observation(np.loadtxt("dsift.txt"))
    obs2 = srk.Observation(np.loadtxt("mfcc.txt"))
    obs3 = srk.Observation(np.loadtxt("tactile.txt"))
    obs4 = srk.Observation(np.loadtxt("angle.txt"))

    object_category = np.loadtxt("object_category.txt")
    motion_category = np.loadtxt("motion_category.txt")

    mlda1 = mlda.MLDA(10, [200, 200, 200], category=object_category)
    mlda2 = mlda.MLDA(10, [200], category=motion_category)
    mlda3 = mlda.MLDA(10, [100, 100])

    mlda1.connect(obs1, obs2, obs3)
    mlda2.connect(obs4)
    mlda3.connect(mlda1, mlda2)

    for it in range(5):
        print(it)
        mlda1.update()
        mlda2.update()
        mlda3.update()


if __name__ == "__main__":
    main()
