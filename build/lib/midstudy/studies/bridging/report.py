# %% [markdown]
# # Does midtraining bridge pretraining and fine-tuning?

# %%
from pathlib import Path

from midstudy.report.report import Report
from midstudy.report.sections import claims, comparisons, left_out, overview, provenance, similarity
from midstudy.studies.bridging.sections import forgetting, proximity

report = Report.of(Path(".."))  # the study's folder: a report lies in report/ inside it
overview.summary(report, proximity.closeness(report))

# %% [markdown]
# ## What is missing

# %%
overview.missing(report)

# %% [markdown]
# ## Which mix helps which task
#
# Every arm shares its trunk with the general-only control, sees the same general text in the same places, ends at the same
# step and is fine-tuned alike. The effect of a mix is therefore a paired difference to the control. Trunk seeds are what
# replicates an experiment; SFT seeds from one trunk are averaged before anything is tested.

# %%
comparisons.comparisons(report, "main")

# %% [markdown]
# ## How close mixes are to tasks

# %%
similarity.similarity(report)

# %% [markdown]
# ## Does closeness predict improvement?

# %%
proximity.proximity(report)

# %% [markdown]
# ## Mixed into general text, or alone?

# %%
comparisons.comparisons(report, "continued")

# %% [markdown]
# ## When to start
#
# An earlier start also means more specialist tokens: the two cannot be told apart here.

# %%
comparisons.comparisons(report, "timing")

# %% [markdown]
# ## How much
#
# A heavier share also means more specialist tokens: the two cannot be told apart here.

# %%
comparisons.comparisons(report, "weight")

# %% [markdown]
# ## What fine-tuning forgets

# %%
forgetting.forgetting(report)

# %% [markdown]
# ## Beside the paper's numbers

# %%
claims.claims(report)

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
