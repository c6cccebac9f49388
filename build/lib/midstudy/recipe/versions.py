"""Integer versions of the numerical components; they are part of every id that the component can change.

Raise a number by hand when the component's numbers change on purpose. `tests/test_golden.py` holds a trace of each together
with the version it was recorded at, and fails when one of the two changes without the other.
"""

MODEL = 3
"""Forward pass and initialisation (`midstudy/model`)."""

ORDER = 1
"""Which corpus and which block fills a slot (`midstudy/data/slots.py`, `order.py`)."""

TRAINING = 3
"""Loss, gradient clipping and the optimizer's update (`midstudy/train`)."""

TOKENIZER = 2
"""How a tokenizer is trained and how documents become token ids (`midstudy/data/tokenizer.py`, `shards.py`)."""

EVALUATION = 1
"""How losses are measured (`midstudy/evaluate`)."""

AVERAGING = 1
"""How weights are averaged (`midstudy/train/averaging.py`)."""

COUNTS = 1
"""How documents are sampled and tokens counted (`midstudy/similarity/counts.py`)."""
