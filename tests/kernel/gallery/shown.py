# What is shown: rich displays, handles, updates, underscores, silence, HTML.
# %%
from IPython.display import HTML, JSON, Latex, Markdown, clear_output, display
display(HTML("<b>bold</b>"), Markdown("*slant*"))
Latex("$x^2$")
# %%
handle = display("waiting", display_id=True)
for n in range(3):
    handle.update(f"step {n}")
# %%
3 + 4
# %%
_ * 10
# %%
class Card:
    def __init__(self, n):
        self.n = n
    def _repr_html_(self):
        return f"<i>{self.n}</i>"
    def __repr__(self):
        return f"Card({self.n})"
cards = [Card(n) for n in range(2)]
cards[1]
# %%
display(*cards, metadata={"note": 1})
cards[0];
# %%
print("gone")
clear_output()
print("kept")
# %%
import sys
print("to stderr", file=sys.stderr)
sys.stdout.write("no newline")
None
# %%
display({"text/plain": "plain", "application/json": {"a": 1}}, raw=True)
# %%
"a\nb", ["x"] * 3, {1: {2: 3}}
