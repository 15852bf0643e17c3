"""Pictures and histograms of sound: a VAE, a Gaussian mixture, and MLDA over it and the sounds."""

import numpy as np

import runner as srk
from runner import gmm, mlda, vae


def main():
    obs1 = srk.Observation(np.loadtxt("data1.txt"))
    obs2 = srk.Observation(np.loadtxt("data2.txt"))
    data_category = np.loadtxt("category.txt")

    vae1 = vae.VAE(18, 200, batch_size=500, KLD_weight=1, RE="BCE")
    gmm1 = gmm.GMM(10, 100, category=data_category)
    mlda1 = mlda.MLDA(10, [200, 200], category=data_category)

    vae1.connect(obs1)
    gmm1.connect(vae1)
    mlda1.connect(obs2, gmm1)

    for i in range(5):
        print(i)
        vae1.update()
        gmm1.update()
        mlda1.update()


if __name__ == "__main__":
    main()
