"""The synthetic data set: generated captioned images with a known truth, and the judge that checks them."""

from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.grammar import Requirement, Want, captions, parse, requirement_of, tell, vocabulary
from t2ilab.data.scenes.judge import Judgement, Seen, judge, judge_batch
from t2ilab.data.scenes.preferences import Preference, Preferences
from t2ilab.data.scenes.prompts import TASKS, Prompt, prompts
from t2ilab.data.scenes.render import render, render_batch
from t2ilab.data.scenes.sampler import sample_scene
from t2ilab.data.scenes.score import Score, check, failure, score, score_batch
from t2ilab.data.scenes.world import Object, Scene, split_of

__all__ = [
    "TASKS",
    "Judgement",
    "Object",
    "Preference",
    "Preferences",
    "Prompt",
    "Requirement",
    "Scene",
    "SceneSource",
    "Score",
    "Seen",
    "Want",
    "captions",
    "check",
    "failure",
    "judge",
    "judge_batch",
    "parse",
    "prompts",
    "render",
    "render_batch",
    "requirement_of",
    "sample_scene",
    "score",
    "score_batch",
    "split_of",
    "tell",
    "vocabulary",
]
