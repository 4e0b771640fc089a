"""nbflow inside Jupyter: magics, cells, output, the panel, and what keeps them together.

`kernel` is what `%load_ext nbflow` sets up; everything else hangs on its `ShellState`. This floor and the command line
are the only ones that may import IPython, ipywidgets or anywidget, and nothing below imports them.
"""
