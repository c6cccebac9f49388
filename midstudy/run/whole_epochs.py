"""Make the packings whose lengths a study follows, then plan it again with exact numbers, before it is frozen.

The packings and the token stages before them are frozen and driven as a study without arms, like every other stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midstudy.plan.planner import Plan
    from midstudy.run.study import Place
    from midstudy.store.store import Store


def with_whole_epochs(
    plan: Plan,
    root: Path,
    where: Place,
    *,
    command: str,
    make: Callable[[Store, Plan], Mapping[str, str]],
    plan_again: Callable[[Store], Plan],
) -> Plan:
    """Return the plan whose lengths are exact; of a plan without estimates, the plan itself.

    Args:
        root: the store's folder.
        where: what computes.
        command: the command that runs the study.
        make: makes the missing stages of a frozen plan; returns the causes of failed stages by id.
        plan_again: plans the study against the store.

    Raises:
        ValueError: a data stage failed, or `begin` rejects the data stages.
        StoreError: the store cannot be written.
    """
    while plan.unresolved:
        store, data_plan = begin_data(plan, root, where, command=command)
        if failed := make(store, data_plan):
            stage_id, cause = next(iter(failed.items()))
            raise ValueError(
                f"{plan.study.name}: its lengths follow from {data_plan.stages[stage_id].label} ({stage_id}), which failed: "
                f"{cause}. midstudy logs {stage_id} --store {root}"
            )
        plan = plan_again(store)
    return plan


def begin_data(plan: Plan, root: Path, where: Place, *, command: str) -> tuple[Store, Plan]:
    """Freeze the data stages that a plan's lengths follow from; return the store and their plan.

    They have the name of the study, so that `status` and `cancel` find them; if an earlier run has frozen its arms under
    that name, `NAME-data`.
    """
    from midstudy.recipe.study import Study
    from midstudy.run.study import begin, plan_study
    from midstudy.store.store import Store
    from midstudy.store.study_manifest import load

    store, name = Store.open_existing(root), plan.study.name
    if store is not None and name in store.studies() and load(store, name).arms:
        name = f"{name[:55]}-data"
    question = f"How many steps are the epochs of {plan.study.name}?"
    study = Study(name=name, question=question, packings=plan.unresolved, seeds=())
    data_plan = plan_study(study, store, where=where)
    return begin(root, data_plan, where, command=command, max_gpu_hours=None), data_plan
