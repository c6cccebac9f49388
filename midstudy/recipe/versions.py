"""Integer versions of the numerical components. A version is part of every id whose results the component can change.

Raise a version by hand when the component's results change on purpose. The golden tests hold a recorded trace of each
component with its version, and fail if one of the two changes without the other.
"""

MODEL = 3
"""Forward pass and initialisation of GPT-NeoX (`midstudy/model`)."""

LLAMA = 1
"""Forward pass and initialisation of the Llama family (`midstudy/model/llama.py`, `initialise.py`)."""

ORDER = 1
"""Which corpus and which block fills a slot (`midstudy/data/slots.py`, `order.py`)."""

TRAINING = 3
"""Loss, gradient clipping and the optimizer's update (`midstudy/train`)."""

PACKING = 1
"""Which items of a mixture of tasks fill which row (`midstudy/data/packing.py`)."""

PREPARATION = 1
"""What each step of a preparation keeps (`midstudy/prepare`)."""

TOKENIZER = 2
"""How a tokenizer is trained and how documents become token ids (`midstudy/data/tokenizer.py`, `shards.py`)."""

RENDERING = 1
"""How conversations become special tokens and text (`midstudy/data/conversation.py`)."""

EVALUATION = 1
"""How losses are measured (`midstudy/evaluate/loss.py`)."""

GENERATION = 1
"""How answers are generated and scored (`midstudy/evaluate/generate.py`, `answers.py`, `calculator.py`)."""

CHOICES = 1
"""How the choices of a question are compared (`midstudy/evaluate/choices.py`)."""

NOISE_SCALE = 1
"""How the gradient noise scale of a state is estimated (`noise_scale.py` in `midstudy/evaluate` and `train`)."""

ROLLOUTS = 1
"""Order of prompts, noise, rewards and advantages of reinforcement learning (`midstudy/execute/rollouts.py`)."""

REPRESENTATION = 1
"""How hidden states and weights of two states are compared (`midstudy/evaluate/representation.py`, `cka.py`)."""

MUON = 1
"""Muon's update of a matrix (`midstudy/train/muon.py`)."""

AVERAGING = 1
"""How weights are averaged (`midstudy/train/averaging.py`)."""

COUNTS = 1
"""How documents are sampled and tokens counted (`midstudy/similarity/counts.py`)."""

DECISION = 1
"""How a decision picks one of the measured values (`midstudy/recipe/choice.py`)."""
