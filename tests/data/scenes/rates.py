"""How often the judge is wrong: python -m tests.data.scenes.rates [IMAGES]

Prints, for images of every subset with objects anywhere, the share in which it gets anything wrong, and the share
that passes a caption with one attribute changed.
"""

import sys

from .examiner import SUBSETS, false_passes, noisy, scattered, share_wrong


def main(count: int) -> None:
    print(f"{count} images of each subset at 64 px")
    for subset in SUBSETS:
        print(f"{subset:12s} judged wrong   {share_wrong(scattered(subset, count)):.2%}", flush=True)
    for subset, spoil, how in (("general", None, ""), ("general", noisy, ", noisy"), ("teddy", None, "")):
        wrong, right, _ = false_passes(scattered(subset, count, seed=2), spoil)
        print(f"{subset + how:15s} false passes {wrong:.2%}, true captions passed {right:.2%}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
