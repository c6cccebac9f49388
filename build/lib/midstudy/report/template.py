# %% [markdown]
# # A study

# %%
from pathlib import Path

from midstudy.report.report import Report
from midstudy.report.sections import claims, comparisons, curves, left_out, overview, provenance, similarity

report = Report.of(Path(".."))  # the study's folder: a report lies in report/ inside it
overview.summary(report)

# %% [markdown]
# ## What is missing

# %%
overview.missing(report)

# %% [markdown]
# ## Comparisons
#
# Differences are paired: an arm and its reference share the seeds. The first seed replicates; others are averaged within it.

# %%
comparisons.comparisons(report)

# %% [markdown]
# ## Along the runs

# %%
curves.curves(report)

# %% [markdown]
# ## Claims

# %%
claims.claims(report)

# %% [markdown]
# ## How close the data lie

# %%
similarity.similarity(report)

# %%
similarity.proximity(report)

# %% [markdown]
# ## What it cost

# %%
provenance.cost(report)

# %% [markdown]
# ## Data

# %%
provenance.data(report)

# %% [markdown]
# ## What was left out

# %%
left_out.left_out(report)

# %% [markdown]
# ## How to reproduce

# %%
provenance.reproduce(report)
