# %% [markdown]
# # Does midtraining bridge pretraining and fine-tuning?

# %%
from pathlib import Path

from midstudy.report.report import Report
from midstudy.report.sections import ablations, bridging, effects, forgetting, left_out, overview, provenance

report = Report.of(Path(".."))  # the study's folder: a report lies in report/ inside it
overview.summary(report)

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
effects.effects(report)

# %% [markdown]
# ## How close mixes are to tasks

# %%
bridging.similarity(report)

# %% [markdown]
# ## Does closeness predict improvement?

# %%
bridging.proximity(report)

# %% [markdown]
# ## Mixed into general text, or alone?

# %%
ablations.mid_versus_continued(report)

# %% [markdown]
# ## When to start

# %%
ablations.timing(report)

# %% [markdown]
# ## How much

# %%
ablations.weight(report)

# %% [markdown]
# ## What fine-tuning forgets

# %%
forgetting.forgetting(report)

# %% [markdown]
# ## Beside the paper's numbers

# %%
provenance.beside_paper(report)

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
