# %%
from pathlib import Path

from midstudy.report.html import section
from midstudy.report.report import Report
from midstudy.report.sections import (
    claims,
    comparisons,
    curves,
    design,
    left_out,
    limitations,
    measures,
    overview,
    power,
    preparations,
    provenance,
    representation,
    shares,
    similarity,
    subjects,
    training,
)

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
overview.summary(report)

# %%
section("What is missing", overview.missing(report))

# %%
section("The design", design.design(report))

# %%
section("Training curves", training.training(report))

# %%
section("Measured curves", curves.curves(report))

# %%
section("Shares of right answers", shares.shares(report) + subjects.subjects(report))

# %%
section("Other measures", measures.measures(report))

# %%
section("Similarity of the data", similarity.similarity(report) + similarity.proximity(report))

# %%
section(
    "Comparisons",
    comparisons.comparisons(report),
    intro="Differences are paired: an arm and its reference share their seeds. The first seed replicates; the others are "
    "averaged within it.",
)

# %%
section("Similarity of representations", representation.representations(report))

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
section("Prepared text", preparations.preparations(report))

# %%
section("Data left out", left_out.left_out(report))

# %%
section("How to reproduce", provenance.reproduce(report))
