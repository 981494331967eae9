"""How the papers' tables are taken: how many samples, of which figures, against which part of the data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """One paper's way.

    Attributes:
        n_samples: number of samples.
        metrics: names of metrics, with those of the features that they compare.
        reference_part: part of the real data that is compared with.
        n_reference: real samples of it, at most.
        ours: what the paper does not say, and was chosen here.
    """

    n_samples: int
    metrics: tuple[str, ...]
    reference_part: str
    n_reference: int
    ours: str

    def departure(self, n_samples: int, part: str, n_reference: int) -> str:
        """What is not as in the paper, in words; empty if numbers and part are.

        Args:
            n_samples: number of samples.
            part: of the real data.
            n_reference: real samples of it.
        """
        here, there = ((n_samples, part, n_reference), (self.n_samples, self.reference_part, self.n_reference))
        if here == there:
            return ""
        told, paper = (f"{drawn:,} samples against {real:,} real ones ({name})" for drawn, name, real in (here, there))
        return f"{told}; the paper's are {paper}, so figures must not be held against its own"


PROTOCOLS = {
    "gfdm": Protocol(
        50_000,
        ("fid@inception", "vendi@pixels"),
        "train",
        50_000,
        "the real samples (the training part) and the resizing to 299 (bilinear, as pytorch-fid)",
    ),
    "fdp-mnist": Protocol(
        16_000, ("fid@lenet",), "held_out", 10_000, "the resizing to 32x32 (bilinear)",
    ),
    "fdp-celeba": Protocol(
        50_000,
        ("fid@inception", "fid@inception-clean", "fid@clip"),
        "train",
        50_000,
        "the resizing of the first figure to 299 (bilinear, as pytorch-fid)",
    ),
}  # fmt: skip
