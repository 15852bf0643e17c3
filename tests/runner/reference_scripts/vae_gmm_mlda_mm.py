"""Pictures and histograms of sound in order: as VAE+GMM+MLDA, with a Markov model above."""

import numpy as np

import runner as srk
from runner import gmm, mlda, mm, vae


def main():
    obs1 = srk.Observation(np.loadtxt("data1.txt"))
    obs2 = srk.Observation(np.loadtxt("data2.txt"))
    data_category = np.loadtxt("category.txt")

    vae1 = vae.VAE(18, epoch=200, batch_size=500)
    gmm1 = gmm.GMM(10, category=data_category)
    mlda1 = mlda.MLDA(K=10, weights=[200, 200], category=data_category)
    mm1 = mm.MarkovModel()

    vae1.connect(obs1)
    gmm1.connect(vae1)
    mlda1.connect(obs2, gmm1)
    mm1.connect(mlda1)

    for i in range(5):
        print(i)
        vae1.update()
        gmm1.update()
        mlda1.update()
        mm1.update()


if __name__ == "__main__":
    main()
