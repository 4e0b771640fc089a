"""How calls run: the only place that knows tasks, backends and caches together.

`current` holds the frame of the running call, `drivers` performs the steps of `core.attempts` in the four worlds,
`stopping` ends code that should not go on, `loop` decides how a coroutine meets a running event loop, `maps` fans a
task out over items, which `pulling` runs here and `ranges` and `remote` elsewhere, where `worker` runs them. Pools and
loops are drawn in `docs/design/0001-architecture.md`.
"""
