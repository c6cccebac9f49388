"""Experiment orchestration for staged language-model training: pretrain, midtrain, fine-tune, compare."""

__version__ = "0.1.0"
