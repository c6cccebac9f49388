"""Recipes: frozen data that describe what to train and measure. They hold everything that changes a result, nothing else.

An experiment file builds a `Study` from these names. Recipes are hashed (`canonical.py`). Where and how fast they run is
placement, which is defined elsewhere. This package imports nothing from the rest of midstudy.
"""

from midstudy.recipe.changing_mixture import interpolated, piecewise
from midstudy.recipe.choice import Choice, Chosen
from midstudy.recipe.choices import Choices
from midstudy.recipe.curriculum import Curriculum, Start, State
from midstudy.recipe.data import CONVERSATION_TOKENS, Corpus, ReleasedTokenizer, Source, SourceMix, Task, Tokenizer
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.factors import factors
from midstudy.recipe.generation import Generation
from midstudy.recipe.llama_shape import LlamaShape, RotaryScaling, llama
from midstudy.recipe.measure import Evaluation, TokenCounts
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.model import ModelShape, pythia
from midstudy.recipe.noise_scale import NoiseScale
from midstudy.recipe.optimizer import AdamW, Group, Muon
from midstudy.recipe.packing import Packing
from midstudy.recipe.phase import Phase
from midstudy.recipe.placebo import placebo
from midstudy.recipe.representation import RepresentationSimilarity
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.schedule import (
    Anneal,
    Constant,
    Continued,
    Cosine,
    Exponential,
    HoldThenLinear,
    Linear,
    LinearWarmup,
    PiecewiseLinear,
    Power,
    Sequential,
    WarmupStableDecay,
)
from midstudy.recipe.start_weights import Average, Release
from midstudy.recipe.study import Arm, Claim, Comparison, Measure, Mix, Study, where
from midstudy.recipe.task_mixture import TaskMixture, TaskPart
from midstudy.recipe.train_part import TrainPart

__all__ = [
    "CONVERSATION_TOKENS",
    "AdamW",
    "Anneal",
    "Arm",
    "Average",
    "Choice",
    "Choices",
    "Chosen",
    "Claim",
    "Comparison",
    "Constant",
    "Continued",
    "Corpus",
    "Cosine",
    "Curriculum",
    "Evaluation",
    "Exponential",
    "Generation",
    "Group",
    "HoldThenLinear",
    "Linear",
    "LinearWarmup",
    "LlamaShape",
    "Measure",
    "Mix",
    "Mixture",
    "MixtureRamp",
    "ModelShape",
    "Muon",
    "NoiseScale",
    "Packing",
    "Phase",
    "PiecewiseLinear",
    "Power",
    "RecipeError",
    "Release",
    "ReleasedTokenizer",
    "RepresentationSimilarity",
    "Rollouts",
    "RotaryScaling",
    "Sequential",
    "Source",
    "SourceMix",
    "Start",
    "State",
    "Study",
    "Task",
    "TaskMixture",
    "TaskPart",
    "TokenCounts",
    "Tokenizer",
    "TrainPart",
    "WarmupStableDecay",
    "factors",
    "interpolated",
    "llama",
    "piecewise",
    "placebo",
    "pythia",
    "where",
]
