# %% [markdown]
# # A study

# %%
from pathlib import Path

from midstudy.report.report import Report
from midstudy.report.sections import claims, comparisons, curves, left_out, overview, provenance, representation, similarity

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
overview.summary(report)

# %% [markdown]
# ## What is missing

# %%
overview.missing(report)

# %% [markdown]
# ## Comparisons
#
# Differences are paired: an arm and its reference share their seeds. The first seed replicates; the others are averaged
# within it.

# %%
comparisons.comparisons(report)

# %% [markdown]
# ## Curves over training

# %%
curves.curves(report)

# %% [markdown]
# ## Claims

# %%
claims.claims(report)

# %% [markdown]
# ## Similarity of the data

# %%
similarity.similarity(report)

# %%
similarity.proximity(report)

# %% [markdown]
# ## Similarity of representations

# %%
representation.representations(report)

# %% [markdown]
# ## Cost

# %%
provenance.cost(report)

# %% [markdown]
# ## Data

# %%
provenance.data(report)

# %% [markdown]
# ## Data left out

# %%
left_out.left_out(report)

# %% [markdown]
# ## How to reproduce

# %%
provenance.reproduce(report)
