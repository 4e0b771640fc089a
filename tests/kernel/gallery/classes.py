# Classes over several cells: inheritance, decorators, properties, identity.
# %%
import functools
from dataclasses import dataclass, field
from enum import Enum
# %%
def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)
    return wrapper
calls = []
# %%
class Shape:
    count = 0
    def __init__(self, name):
        self.name = name
        Shape.count += 1
    @property
    def title(self):
        return self.name.title()
    @logged
    def area(self):
        return 0
    def __repr__(self):
        return f"<{type(self).__name__} {self.name}>"
# %%
class Square(Shape):
    def __init__(self, side):
        super().__init__("square")
        self.side = side
    @logged
    def area(self):
        return super().area() + self.side ** 2
square = Square(3)
square, square.area(), calls
# %%
@dataclass
class Box:
    shapes: list = field(default_factory=list)
    def add(self, shape):
        self.shapes.append(shape)
        return self
box = Box().add(square)
box.shapes[0] is square
# %%
class Colour(Enum):
    RED = 1
    BLUE = 2
square.colour = Colour.BLUE
square.colour is Colour.BLUE, isinstance(square, Shape), Shape.count
# %%
box.add(Square(4)).add(Shape("blob"))
[shape.area() for shape in box.shapes]
# %%
first, *rest = box.shapes
first.side = 10
square.side, box.shapes[0].side, rest
# %%
total = functools.reduce(lambda a, b: a + b, (s.area() for s in box.shapes))
total, len(calls)
# %%
class Shape(Shape):
    extra = "newer"
newer = Shape("late")
type(square).__mro__[1] is Shape, newer.extra, Shape.count
