"""Pictures in order: a VAE, a Gaussian mixture and a Markov model, with the earliest spellings."""

import numpy as np

import runner as srk
from runner import gmm, mm, vae


def main():
    obs = srk.Observation(np.loadtxt("data.txt"))
    data_category = np.loadtxt("category.txt")

    vae1 = vae.VAE(18, itr=200, hidden_encoder_dim=100, hidden_decoder_dim=80, batch_size=None, KL_param=1)
    gmm1 = gmm.GMM(K=10, itr=100, category=data_category)
    mm1 = mm.MarkovModel(num_samp=100)

    vae1.connect(obs)
    gmm1.connect(vae1)
    mm1.connect(gmm1)

    for i in range(5):
        print(i)
        vae1.update()
        gmm1.update()
        mm1.update()


if __name__ == "__main__":
    main()
