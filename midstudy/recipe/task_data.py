"""The data of a phase that reads items instead of the blocks of corpora."""

from __future__ import annotations

from midstudy.recipe.data import Task
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.task_mixture import TaskMixture

TaskData = Task | TaskMixture | Rollouts
"""A task's items, a packed mixture of tasks, or the prompts of a task with the answers that the model gives."""
