"""Evaluation of trained states."""
