# Counting words: strings, regular expressions, counters, files.
# %%
import re
from collections import Counter, defaultdict
from string import *
LINES = """The cat sat on the mat.
A dog saw the cat; the cat ran!
Cats and dogs: friends?""".splitlines()
# %%
def words(line):
    return re.findall(r"[a-z]+", line.lower())
tokens = [word for line in LINES for word in words(line)]
len(tokens), tokens[:4]
# %%
counts = Counter(tokens)
counts["cat"] += 10
counts.most_common(3)
# %%
by_letter = defaultdict(list)
for word in sorted(counts):
    by_letter[word[0]].append(word)
del word
dict(by_letter)["c"]
# %%
with open("words.txt", "w") as out:
    for letter in ascii_lowercase[:5]:
        print(letter, *by_letter.get(letter, []), file=out)
out.closed
# %%
text = open("words.txt").read()
print(text)
total = sum(len(line.split()) - 1 for line in text.splitlines())
total
# %%
longest = max(counts, key=lambda w: (len(w), w))
by_letter["z"].append(longest)
if (n := len(by_letter)) > 3:
    note = f"{n} letters"
note, by_letter["z"]
# %%
template = Template("$who sat on $what")
template.substitute(who=longest, what="it");
# %%
counts.subtract(tokens)
+counts
