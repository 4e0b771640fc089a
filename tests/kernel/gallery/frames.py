# Tables: grouping, joining, time series, changes in place, styles.
# %%
import pandas as pd
import numpy as np
pd.set_option("display.width", 100)
orders = pd.DataFrame({"id": range(6), "who": list("abcabc"), "amount": [5.0, 3.5, 8.0, 1.0, np.nan, 2.5]})
people = pd.DataFrame({"who": list("abc"), "city": ["Bonn", "Kiel", "Ulm"]}).set_index("who")
orders
# %%
orders["amount"] = orders["amount"].fillna(0)
orders.loc[orders.who == "c", "amount"] *= 2
orders.dtypes
# %%
joined = orders.join(people, on="who")
view = joined
view["big"] = view.amount > 4
joined.shape, "big" in joined
# %%
totals = joined.groupby("city").amount.agg(["sum", "count"])
totals
# %%
days = pd.date_range("2024-01-01", periods=6, freq="D", tz="UTC")
series = pd.Series(orders.amount.to_numpy(), index=days, name="amount")
weekly = series.resample("2D").sum()
weekly
# %%
category = joined.city.astype("category")
category.cat.categories.tolist(), category.cat.codes.tolist()
# %%
del joined["big"]
joined.columns = [{"amount": "paid"}.get(each, each) for each in joined.columns]
list(view.columns)
# %%
for name, group in joined.groupby("who"):
    print(name, group.paid.sum())
last_group = group
len(last_group)
# %%
styled = totals.style.format(precision=1).set_caption("Totals").set_uuid("fixed")
styled
# %%
wide = joined.pivot_table(index="who", columns="city", values="paid", aggfunc="sum").fillna(0)
wide.index.name, wide.to_numpy().trace()
# %%
pieces = {city: part for city, part in joined.groupby("city")}
pieces["Ulm"].loc[:, "paid"] = 0.0
pieces["Ulm"].paid.sum(), joined.paid.sum()
