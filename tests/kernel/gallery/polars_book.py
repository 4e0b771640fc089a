# Columns: polars and arrow tables, lazy frames, nested values.
# %%
import polars as pl
import pyarrow as pa
cities = pl.DataFrame({"city": ["Bonn", "Kiel", "Ulm"], "people": [330, 247, 126]})
cities
# %%
big = cities.filter(pl.col("people") > 200).with_columns((pl.col("people") / 100).alias("h"))
big.to_dicts()
# %%
lazy = cities.lazy().group_by(pl.col("people") > 200).agg(pl.col("city").sort())
lazy.collect().sort("people").to_dicts()
# %%
table = pa.table({"n": [1, 2, None], "s": ["a", None, "c"]})
table.schema.names, table.column("n").null_count
# %%
nested = pl.DataFrame({"k": [1, 2], "v": [[1, 2], []]})
nested.explode("v")["v"].to_list()
# %%
cities[0, "people"] = 331
cities["people"].sum(), big["people"].sum()
# %%
both = pl.concat([cities, cities.with_columns(pl.lit(0).cast(pl.Int64).alias("people"))])
both.shape, both["city"].n_unique()
