"""Spoken digits: histograms of acoustic co-occurrences, and LDA of them."""

from runner import hac, mlda


def main():
    wavs = [f"{digit}_speaker_{take}.wav" for digit in range(3) for take in range(3)]
    obs1 = hac.HACFeatureExtractor(wavs, [10, 10, 10])

    mlda1 = mlda.MLDA(3, [200], category=[0, 0, 0, 1, 1, 1, 2, 2, 2])

    mlda1.connect(obs1)

    for it in range(1):
        print(it)
        mlda1.update()


if __name__ == "__main__":
    main()
