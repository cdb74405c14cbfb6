"""The embedded world: generated captioned pictures with a known truth, and the judge that checks them."""

from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.grammar import Requirement, Want, captions, parse, requirement_of, vocabulary
from t2ilab.data.scenes.render import render, render_batch
from t2ilab.data.scenes.sampler import sample_scene
from t2ilab.data.scenes.world import Object, Scene, split_of

__all__ = [
    "Object",
    "Requirement",
    "Scene",
    "SceneSource",
    "Want",
    "captions",
    "parse",
    "render",
    "render_batch",
    "requirement_of",
    "sample_scene",
    "split_of",
    "vocabulary",
]
