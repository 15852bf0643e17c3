"""Pictures, compressed by a VAE and classified by a Gaussian mixture."""

import numpy as np

import runner as srk
from runner import gmm, vae


def main():
    obs = srk.Observation(np.loadtxt("data.txt"))
    data_category = np.loadtxt("category.txt")

    vae1 = vae.VAE(18, epoch=200, batch_size=500)
    gmm1 = gmm.GMM(10, category=data_category)

    vae1.connect(obs)
    gmm1.connect(vae1)

    for i in range(5):
        print(i)
        vae1.update()
        gmm1.update()


if __name__ == "__main__":
    main()
