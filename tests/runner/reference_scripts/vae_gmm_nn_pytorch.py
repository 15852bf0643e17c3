"""As VAE+GMM+NN, with networks of torch that the script defines by methods of subclasses."""

import numpy as np
import torch
from torch import nn

import runner as srk
from runner import gmm, torch_nn, torch_vae

encoder_dim = 128
decoder_dim = 128


class vae_model(torch_vae.TorchVAE):  # noqa: N801 (as the family's scripts name it)
    encoder_dim = 128
    decoder_dim = 128

    def build_encoder(self, input_dim, latent_dim):
        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(input_dim[0], encoder_dim)
                self.fc_mu = nn.Linear(encoder_dim, latent_dim)
                self.fc_var = nn.Linear(encoder_dim, latent_dim)

            def forward(self, x):
                h = torch.relu(self.fc(x))
                return self.fc_mu(h), self.fc_var(h)

        return Encoder()

    def build_decoder(self, input_dim, latent_dim):
        return nn.Sequential(
            nn.Linear(latent_dim, decoder_dim),
            nn.ReLU(),
            nn.Linear(decoder_dim, input_dim[0]),
            nn.Sigmoid(),
        )


class NN_model(torch_nn.TorchNN):  # noqa: N801 (as the family's scripts name it)
    def build_model(self, input_dim, output_dim):
        h_dim = 64
        return nn.Sequential(nn.Linear(input_dim, h_dim), nn.ReLU(), nn.Linear(h_dim, output_dim), nn.Sigmoid())


def main():
    obs1 = srk.Observation(np.loadtxt("data/data1.txt"))
    obs2 = srk.Observation(np.loadtxt("data/data2.txt"))
    category = np.loadtxt("data/category.txt")

    vae1 = vae_model(64, 10, device="cpu", epoch=200, batch_size=500)
    gmm1 = gmm.GMM(10, category=category)
    nn1 = NN_model(itr1=500, itr2=2000, batch_size1=500, batch_size2=500)

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
