# %%
from pathlib import Path

from midstudy.report.html import section
from midstudy.report.report import Report
from midstudy.report.sections import claims, design, left_out, overview, power, provenance, shares, training
from midstudy.studies.nanochat.sections import (
    abilities,
    effects,
    first_screen,
    limitations,
    orders,
    prompts,
    questions,
    rewards,
)

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
first_screen.first_screen(report)

# %%
section("What is missing", overview.missing(report))

# %%
section("What each stage can do", abilities.abilities(report))

# %%
section("Four prompts", prompts.prompts(report))

# %%
section("One task after another", orders.orders(report))

# %%
section("What does RL add?", rewards.rewards(report))

# %%
section("Does SFT remember its questions?", questions.questions(report))

# %%
section("Claims", claims.claims(report))

# %%
section("The design", design.design(report))

# %%
section("Training curves", training.training(report))

# %%
section(
    "Effects",
    effects.effects(report),
    intro="An effect is a paired difference: an arm and its reference share their trunk and its seed.",
)

# %%
section("Every share", shares.shares(report))

# %%
section("Power", power.power(report))

# %%
section("Limitations", limitations.limitations(report))

# %%
section("Cost", provenance.cost(report))

# %%
section("Data", provenance.data(report))

# %%
section("Data left out", left_out.left_out(report))

# %%
section("How to reproduce", provenance.reproduce(report))
