# Errors handled, warnings, logging, context managers, match, try and its names.
# %%
import contextlib, logging, warnings
log = logging.getLogger("gallery")
log.setLevel(logging.INFO)
log.propagate = False
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
log.handlers[:] = [Keep()]
# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    warnings.warn("careful")
[str(each.message) for each in caught]
# %%
def parse(text):
    try:
        value = int(text)
    except ValueError as error:
        log.info("bad %s", text)
        return None
    else:
        return value
    finally:
        log.info("seen %s", text)
parsed = [parse(text) for text in ("1", "x", "3")]
parsed, lines
# %%
try:
    {}["missing"]
except KeyError as error:
    message = repr(error)
message, "error" in globals()
# %%
def kind(value):
    match value:
        case {"type": name, **rest}:
            return name, rest
        case [first, *_]:
            return "list", first
        case str() | bytes():
            return "text", None
        case _:
            return "other", value
[kind(each) for each in ({"type": "t", "n": 1}, [7, 8], "s", 3.5)]
# %%
@contextlib.contextmanager
def noted(name):
    lines.append(f"+{name}")
    try:
        yield lines
    finally:
        lines.append(f"-{name}")
with noted("a") as outer, noted("b"):
    outer.append("inside")
lines[-5:]
# %%
group = None
try:
    raise ExceptionGroup("several", [ValueError(1), TypeError("t")])
except* ValueError as some:
    group = [str(each) for each in some.exceptions]
except* TypeError:
    group = (group or []) + ["type"]
group
# %%
assert group, "never"
x = y = []
x += [1]
y, x is y
