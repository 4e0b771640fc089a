# Coroutines: await, async for, async with, async comprehensions, tasks.
# %%
import asyncio
import contextlib
# %%
async def fetch(n):
    await asyncio.sleep(0)
    return n * 2
first = await fetch(2)
first
# %%
async def numbers(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
seen = []
async for i in numbers(3):
    seen.append(i)
seen
# %%
@contextlib.asynccontextmanager
async def opened(name):
    seen.append(f"open {name}")
    yield name.upper()
    seen.append(f"close {name}")
async with opened("file") as handle:
    print("inside", handle)
seen[-2:]
# %%
squares = [n * n async for n in numbers(4)]
results = await asyncio.gather(*(fetch(n) for n in squares))
results
# %%
try:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(10)
except TimeoutError as error:
    outcome = type(error).__name__
outcome
# %%
async with asyncio.TaskGroup() as group:
    jobs = [group.create_task(fetch(n)) for n in range(3)]
values = [job.result() for job in jobs]
del jobs, group
values
# %%
loop_is_running = asyncio.get_running_loop().is_running()
loop_is_running and await fetch(21)
