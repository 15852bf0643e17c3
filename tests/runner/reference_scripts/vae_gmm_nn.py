"""Pictures of digits, and labels that a network predicts from the classes of a Gaussian mixture."""

import numpy as np

import runner as srk
from runner import gmm, nn, vae


def main():
    obs1 = srk.Observation(np.loadtxt("data1.txt"))
    obs2 = srk.Observation(np.loadtxt("data2.txt"))
    category = np.loadtxt("category.txt")

    vae1 = vae.VAE(10, epoch=200, batch_size=500)
    gmm1 = gmm.GMM(10, category=category)
    nn1 = nn.NN(itr1=500, itr2=2000, batch_size1=500, batch_size2=500)

    vae1.connect(obs1)
    gmm1.connect(vae1)
    nn1.connect(gmm1, obs2)

    for i in range(10):
        print(i)
        vae1.update()
        gmm1.update()
        nn1.update()


if __name__ == "__main__":
    main()
