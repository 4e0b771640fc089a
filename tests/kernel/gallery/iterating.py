# Generators, closures, scopes: what is used up, what is captured, what is global.
# %%
from itertools import count, islice
def naturals():
    n = 0
    while True:
        yield n
        n += 1
stream = naturals()
next(stream), next(stream)
# %%
firsts = list(islice(stream, 3))
firsts
# %%
def counter():
    total = 0
    def add(n=1):
        nonlocal total
        total += n
        return total
    return add
add = counter()
add(), add(5)
# %%
add(10)
# %%
level = 1
def raise_level(by):
    global level
    level += by
    return level
raise_level(2), level
# %%
raise_level(3)
level
# %%
makers = [lambda k=k: k * level for k in range(3)]
[make() for make in makers]
# %%
late = [lambda: i for i in range(3)]
[f() for f in late]
# %%
lazy = (n * level for n in firsts)
sum(lazy), list(lazy)
# %%
cache = {}
def fib(n):
    if n not in cache:
        cache[n] = n if n < 2 else fib(n - 1) + fib(n - 2)
    return cache[n]
fib(20), len(cache)
# %%
fib(25), len(cache)
# %%
x = 5
def shadow(x):
    x += 1
    return x
[x for x in range(3)], shadow(x), x
