# Figures: inline plots, figures as values, axes in one cell.
# %%
import matplotlib.pyplot as plt
import numpy as np
plt.rcParams["figure.figsize"] = (1.2, 1)
x = np.linspace(0, 3, 7)
# %%
plt.plot(x, np.sin(x))
plt.title("sin");
# %%
figure, axes = plt.subplots(1, 2)
for axis, power in zip(axes, (1, 2)):
    axis.plot(x, x ** power)
print("two panels")
# %%
heights, edges, _ = plt.hist(np.sin(x), bins=3)
heights.tolist(), edges.round(2).tolist()
# %%
def small(values):
    fig, ax = plt.subplots()
    ax.bar(range(len(values)), values)
    plt.close(fig)
    return fig
bars = small([1, 2])
type(bars).__name__, len(bars.axes)
# %%
import io
buffer = io.BytesIO()
bars.savefig(buffer, format="png", metadata={"Software": None})
png = buffer.getvalue()
png[:4]
