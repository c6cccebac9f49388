# %%
from pathlib import Path

from midstudy.report.html import section
from midstudy.report.report import Report
from midstudy.report.sections import (
    curves,
    design,
    left_out,
    other_test_set,
    overview,
    power,
    provenance,
    similarity,
    training,
)
from midstudy.studies.bridging.sections import (
    bridges,
    claims,
    compared,
    dose,
    first_screen,
    forgetting,
    limitations,
    proximity,
    representation,
)

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
first_screen.first_screen(report)

# %%
section("What is missing", overview.missing(report))

# %%
section("The design", design.design(report))

# %%
section("Training curves", training.training(report))

# %%
section("Curves over fine-tuning", curves.curves(report))

# %%
section("Similarity of mixes and tasks", similarity.similarity(report))

# %%
section("Does closeness predict improvement?", proximity.proximity(report))

# %%
section("Bridge lengths and the authors' mixed models", bridges.bridges(report))

# %%
section(
    "Effects",
    compared.compared(report),
    intro="An effect is a paired difference: an arm and its reference share their trunk and their seeds. A trunk seed "
    "replicates an experiment.",
)

# %%
section("Another test set", other_test_set.other_test_set(report, "main"))

# %%
section("Dose or tokens?", dose.dose(report))

# %%
section("Forgetting in fine-tuning", forgetting.forgetting(report))

# %%
section("The price of a gain in general loss", forgetting.front(report))

# %%
section("Do representations change less after midtraining?", representation.representation(report))

# %%
section("Claims", claims.claims(report))

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
