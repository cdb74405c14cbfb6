"""What the tests of the synthetic data set share: comparing a judgement with the truth, spoiling images."""

from collections import Counter
from dataclasses import replace

import numpy as np

from t2ilab.data.scenes import (
    Judgement,
    Scene,
    check,
    judge_batch,
    render_batch,
    requirement_of,
    sample_scene,
)
from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import EVERYTHING, SUBJECT_LOOK
from t2ilab.data.scenes.sampler import MOST_JITTER
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, RELATIONS, SHAPES, SIZES, SPLITS, STYLES, TEDDY

SUBSETS = ("general", "curated", "teddy", "subject", "class", "foundation")


def scenes(subset, count, splits=SPLITS, seed=0, jitter=0.0):
    """Scenes in equal parts from every split."""
    return [
        sample_scene(subset, splits[i % len(splits)], i // len(splits), seed, jitter=jitter)
        for i in range(count)
    ]


def scattered(subset, count, splits=SPLITS, seed=0):
    """Scenes with objects anywhere and radii that vary: harder for the judge than those on the lattice."""
    return scenes(subset, count, splits, seed, jitter=MOST_JITTER)


def mistakes(scene: Scene, judgement: Judgement) -> list[str]:
    """The attributes a judgement gets wrong; empty if all are right, places and radii within a unit."""
    if len(scene.objects) != len(judgement.objects):
        return ["count"]
    wrong = [name for name in ("background", "style") if getattr(scene, name) != getattr(judgement, name)]
    left = list(judgement.objects)
    for item in scene.objects:
        seen = min(left, key=lambda one: np.hypot(one.x - item.x, one.y - item.y))
        left.remove(seen)
        names = ("shape", "color", "size", "belly")
        wrong += [name for name in names if getattr(seen, name) != getattr(item, name)]
        wrong += ["place"] if np.hypot(seen.x - item.x, seen.y - item.y) > 1 else []
        wrong += ["radius"] if abs(seen.radius - item.radius) > 1 else []
    return wrong


def judged(truths, size=64, spoil=None, step=500):
    """Judgements of the rendered scenes, made in portions to spare memory."""
    found = []
    for start in range(0, len(truths), step):
        images = render_batch(truths[start : start + step], size)
        found += judge_batch(images if spoil is None else spoil(images))
    return found


def share_wrong(truths, **options):
    wrong = [
        bool(mistakes(scene, seen)) for scene, seen in zip(truths, judged(truths, **options), strict=True)
    ]
    return float(np.mean(wrong))


def noisy(images, sigma=6.0):
    noise = np.random.default_rng(0).normal(0, sigma, images.shape)
    return _bytes(images + noise)


def blurred(images, sigma=0.6):
    from scipy import ndimage

    return _bytes(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))


def smoothed(images, decibels=34.0):
    """As a good autoencoder gives images back: grain and edges softened, errors smooth, of this PSNR."""
    from scipy import ndimage

    soft = blurred(images, 0.5).astype(np.float32)
    waves = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=images.shape), (0, 1.5, 1.5, 0))
    target = 255**2 * 10 ** (-decibels / 10)
    rest = target - np.mean((soft - images) ** 2, axis=(1, 2, 3), keepdims=True)
    return _bytes(soft + waves / waves.std() * np.sqrt(np.maximum(rest, 4.0)))


def _bytes(images):
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def altered(wanted, draws):
    """The kind of one attribute and the requirement with only that changed, so that the image is wrong."""
    kinds = ["color", "shape", "size", "count", "background", "style"]
    kind = draws.choice(kinds + ["relation"] * (wanted.relation is not None))
    wants, k = list(wanted.wants), int(draws.unit() * len(wanted.wants))
    if kind in ("color", "shape", "size"):
        values = {"color": COLORS, "shape": SHAPES, "size": SIZES}[kind]
        others = [value for value in values if value != getattr(wants[k], kind)]
        wants[k] = replace(wants[k], **{kind: draws.choice(others)})
        return kind, replace(wanted, wants=tuple(wants))
    if kind == "count":
        wants = wants[:-1] if len(wants) > 1 and draws.chance(0.5) else [*wants, wants[0]]
        return kind, replace(wanted, wants=tuple(wants), relation=None)
    values = {"relation": RELATIONS, "background": BACKGROUNDS, "style": STYLES}[kind]
    others = [value for value in values if value != getattr(wanted, kind)]
    return kind, replace(wanted, **{kind: draws.choice(others)})


def false_passes(truths, spoil=None):
    """Shares of images that pass a caption wrong in one attribute, and their own; the kinds tried."""
    wrong, right, tried = Counter(), 0, Counter()
    for i, (scene, seen) in enumerate(zip(truths, judged(truths, spoil=spoil), strict=True)):
        own = requirement_of(scene, EVERYTHING)
        kind, other = altered(own, Draws("altered", 0, i))
        tried[kind] += 1
        wrong[kind] += check(other, seen).passed
        right += check(own, seen).passed
    return wrong.total() / len(truths), right / len(truths), tried


def is_subject(item):
    """Whether an object is the particular bear of the subset `subject`."""
    return item.shape == TEDDY and (item.color, item.mark) == SUBJECT_LOOK
