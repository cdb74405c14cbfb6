"""The options of each stage beside its groups, and whether the chosen parts fit together.

`conf/stage/<name>.yaml` is held against these classes before anything heavy is built. `unfit` looks further than
signatures: it puts the parts together on the meta device, where a network of any size costs neither memory nor
arithmetic, so that a model that cannot read its latents is refused before an image is encoded.
"""

from t2ilab.stages.options.base import DenoiserOptions, StageOptions, TrainingOptions
from t2ilab.stages.options.denoiser import ContinueOptions, FromModelOptions, PretrainOptions
from t2ilab.stages.options.distill import DistillOptions
from t2ilab.stages.options.encoders import AutoencoderOptions, EncoderOptions, RewardOptions
from t2ilab.stages.options.finished import (
    CompareOptions,
    ExportOptions,
    InferenceOptions,
    PairsOptions,
    SampleOptions,
)
from t2ilab.stages.options.personalize import PersonalizeOptions
from t2ilab.stages.options.preference import PreferenceOptions

__all__ = [
    "AutoencoderOptions",
    "CompareOptions",
    "ContinueOptions",
    "DenoiserOptions",
    "DistillOptions",
    "EncoderOptions",
    "ExportOptions",
    "FromModelOptions",
    "InferenceOptions",
    "PairsOptions",
    "PersonalizeOptions",
    "PreferenceOptions",
    "PretrainOptions",
    "RewardOptions",
    "SampleOptions",
    "StageOptions",
    "TrainingOptions",
]
