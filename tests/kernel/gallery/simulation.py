# Random numbers: seeds, generators, states that go on from cell to cell.
# %%
import random
import numpy as np
random.seed(11)
np.random.seed(12)
rng = np.random.default_rng(13)
# %%
walk = np.cumsum(rng.integers(-1, 2, size=30))
walk[-1]
# %%
def throw(n):
    return [random.randint(1, 6) for _ in range(n)]
throws = throw(5)
throws
# %%
matrix = np.random.rand(3, 3)
corner = matrix[:2, :2]
corner += 1
matrix.round(3)
# %%
state = rng.bit_generator.state["state"]["state"] % 1000
sample = rng.choice(walk, 3, replace=False)
state, sorted(sample.tolist())
# %%
hits = 0
for _ in range(200):
    x, y = random.random(), random.random()
    hits += x * x + y * y < 1
hits
# %%
corner[0, 0] = 99
matrix[0, 0], corner.base is not None
# %%
acc = []
while len(acc) < 3:
    acc.append(random.choice("abc"))
    rng.shuffle(walk)
"".join(acc), walk[:3].tolist(), random.random(), rng.random()
