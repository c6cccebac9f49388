# %%
from pathlib import Path

from midstudy.report.html import section
from midstudy.report.report import Report
from midstudy.report.sections import claims, comparisons, curves, design, left_out, overview, power, provenance, shares

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
overview.summary(report)

# %%
section("What is missing", overview.missing(report))

# %%
section("The design", design.design(report))

# %%
section("Losses over midtraining", curves.curves(report))

# %%
section("Claims", claims.claims(report))

# %%
section("Comparisons", comparisons.comparisons(report))

# %%
section("Every share", shares.shares(report))

# %%
section("Power", power.power(report))

# %%
section("Cost", provenance.cost(report))

# %%
section("Data", provenance.data(report))

# %%
section("Data left out", left_out.left_out(report))

# %%
section("How to reproduce", provenance.reproduce(report))
