"""Table of evaluators: the recipe, and the function that runs it.

The recipe in `recipe/` defines what an evaluation reports (`METRICS`) and how many tokens it costs (`num_tokens`),
since plans need both. Functions of (recipe, `evaluate.subject.Subject`) that return the metrics for the record are given as
`module:function`, so that this module does not import torch.
"""

from __future__ import annotations

from midstudy.recipe.choices import Choices
from midstudy.recipe.generation import Generation
from midstudy.recipe.measure import Evaluation
from midstudy.recipe.noise_scale import NoiseScale
from midstudy.recipe.representation import RepresentationSimilarity

EVALUATORS: dict[type, str] = {
    Evaluation: "midstudy.evaluate.loss:evaluate_loss",
    Choices: "midstudy.evaluate.choices:evaluate_choices",
    Generation: "midstudy.evaluate.answers:evaluate_answers",
    NoiseScale: "midstudy.evaluate.noise_scale:evaluate_noise_scale",
    RepresentationSimilarity: "midstudy.evaluate.representation:compare_representations",
}
