# %% [markdown]
# # Does midtraining bridge pretraining and fine-tuning?

# %%
from pathlib import Path

from midstudy.report.report import Report
from midstudy.report.sections import comparisons, left_out, other_test_set, overview, provenance, similarity
from midstudy.studies.bridging.sections import bridges, claims, forgetting, proximity, representation

report = Report.of(Path(".."))  # the study's folder; the report is in its subfolder report/
overview.summary(report, proximity.closeness(report))

# %% [markdown]
# ## What is missing

# %%
overview.missing(report)

# %% [markdown]
# ## Which mix helps which task
#
# Every arm shares its trunk with the general-only control, sees the same general text at the same positions, ends at the
# same step and is fine-tuned in the same way. The effect of a mix is therefore a paired difference from the control. Trunk
# seeds are the replicates; SFT seeds of one trunk are averaged before testing.

# %%
comparisons.comparisons(report, "main")

# %%
other_test_set.other_test_set(report, "main")

# %% [markdown]
# ## Similarity of mixes and tasks

# %%
similarity.similarity(report)

# %% [markdown]
# ## Does closeness predict improvement?

# %%
proximity.proximity(report)

# %%
bridges.bridges(report)

# %% [markdown]
# ## Mixed into general text or alone?

# %%
comparisons.comparisons(report, "continued")

# %% [markdown]
# ## When to start
#
# An earlier start also means more specialist tokens; this study cannot separate the two.

# %%
comparisons.comparisons(report, "timing")

# %% [markdown]
# ## Which share
#
# A larger share also means more specialist tokens; this study cannot separate the two.

# %%
comparisons.comparisons(report, "weight")

# %% [markdown]
# ## Forgetting in fine-tuning

# %%
forgetting.forgetting(report)

# %%
forgetting.front(report)

# %%
representation.representation(report)

# %% [markdown]
# ## Comparison with the paper's claims

# %%
claims.claims(report)

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
