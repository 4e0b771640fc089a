# Numbers: optimisation, linear algebra, views and aliases of arrays.
# %%
import numpy as np
from scipy import optimize, stats
rng = np.random.default_rng(5)
t = np.linspace(0, 4, 40)
noisy = 2.5 * np.exp(-1.3 * t) + 0.5 + rng.normal(0, 0.02, t.size)
# %%
def model(t, a, b, c):
    return a * np.exp(-b * t) + c
best, covariance = optimize.curve_fit(model, t, noisy)
best.round(2)
# %%
residuals = noisy - model(t, *best)
abs(residuals).max() < 0.1, stats.shapiro(residuals).pvalue > 0.001
# %%
%%time
grid = np.add.outer(np.arange(4), np.arange(3))
grid
# %%
row = grid[1]
column = grid[:, 1]
row[1] = 100
grid[1, 1], column[1]
# %%
column[:] = 0
grid.sum(), row.tolist()
# %%
flat = grid.ravel()
flat *= 2
copied = grid.copy()
copied[0] = -1
grid[0].tolist()
# %%
values, vectors = np.linalg.eigh(np.cov(np.vstack([t, noisy])))
values.round(4)
# %%
records = np.array([(1, 2.5), (2, 3.5)], dtype=[("n", "i4"), ("v", "f8")])
records["v"][0] = 9.5
records
# %%
masked = np.ma.masked_greater(noisy, 2)
int(masked.mask.sum()), float(masked.mean().round(3))
