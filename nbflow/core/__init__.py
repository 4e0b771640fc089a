"""What a task is and how a call proceeds, without any input or output.

`spec` describes tasks, `events` the facts of a run, `policy` the arithmetic of retries, and `attempts` is the one
state machine that all four kinds of task share. Nothing here reads a clock, opens a file, knows an event loop or a
plugin; drivers on higher floors do that.
"""
