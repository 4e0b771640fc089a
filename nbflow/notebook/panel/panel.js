/* The panel in the front end: draws what the kernel sends and sends clicks back. No imports, so it works offline.
 *
 * One `State` for each widget folds frames (differences) and snapshots; any number of views draw it. The kernel sends facts
 * only when something changed; stopwatches tick here, by the kernel's clock. Names of fields are those of `widget.encode`.
 * panel-parts.js and panel-tabs.js come before this file in one script.
 */

const STOPWATCH_MS = 200;
const TABS = { tasks: "Tasks", items: "Calls", timeline: "Timeline", graph: "Graph", history: "History" };
const ANNOUNCE_MS = 5000;
const HEARD_WITHIN_MS = 2000;
const NOT_HEARD =
  "The kernel cannot hear this button while the cell runs. Press ■ (interrupt) in the toolbar: it cancels this run cleanly.";

/* The facts, shared by all views of one widget. */
class State {
  constructor() {
    this.head = {};
    this.order = [];
    this.rows = {};
    this.pending = new Map(); // what was clicked: row id, or "all" -> "sent" | "heard" | "unheard"
    this.lost = false; // whether the kernel is gone
    this.ahead = 0; // seconds that the kernel's clock is ahead of ours
    this.views = new Set();
  }

  load(snapshot) {
    if (!snapshot || !snapshot.rows) return;
    this.setClock(snapshot.now);
    Object.assign(this, { head: snapshot.head, order: snapshot.order, rows: structuredClone(snapshot.rows) });
    this.draw();
  }

  fold(frame) {
    this.setClock(frame.now);
    if (frame.head) this.head = { ...this.head, ...frame.head };
    if (frame.order) this.order = frame.order;
    for (const [id, changes] of Object.entries(frame.rows ?? {})) {
      const row = (this.rows[id] ??= {});
      for (const [name, value] of Object.entries(changes)) {
        if (value === null) delete row[name];
        else row[name] = value;
      }
    }
    const kept = new Set(this.order);
    for (const id of Object.keys(this.rows)) if (!kept.has(id)) delete this.rows[id];
    for (const key of this.pending.keys()) if (!this.isOpen(key)) this.pending.delete(key);
    this.draw();
  }

  /* Whether what was clicked is still there to be stopped, or to be run again. */
  isOpen(key) {
    if (key === "all") return this.head.live;
    const [id, index] = key.split(":");
    const row = this.rows[id];
    if (index === undefined) return !row || row.stop || row.retry;
    return this.head.live && (!row?.items || row.items.some((item) => item[3] === Number(index)));
  }

  /* The kernel is gone: nothing runs any more, and nobody answers what tabs and buttons ask. */
  lose() {
    this.lost = true;
    for (const view of this.views) view.list.hidden = true;
    if (!this.head.live) return;
    this.head = { ...this.head, live: false, ended: this.now, text: `${this.head.text} · the kernel has ended` };
    for (const row of Object.values(this.rows)) {
      if (row.since) row.elapsed = duration(this.now - row.since);
      if (["queued", "running", "retrying"].includes(row.state)) row.state = "cancelled";
      for (const name of ["since", "expected", "items", "others", "stop", "retry"]) delete row[name];
    }
    this.pending.clear();
    for (const view of this.views) view.choose("tasks");
    this.draw();
  }

  setClock(now) {
    if (now) this.ahead = now - Date.now() / 1000;
  }

  get now() {
    return Date.now() / 1000 + this.ahead;
  }

  /* A click: say so at once, wait for the kernel's word, and admit it when none comes. */
  click(model, id, index = null) {
    if (id === "all") this.expect(model, "all", { kind: "stop" });
    else this.expect(model, pendingKey(id, index), { kind: "cancel", id: Number(id), ...(index === null ? {} : { index }) });
  }

  retry(model, id) {
    this.expect(model, pendingKey(id, null), { kind: "retry", id: Number(id) });
  }

  expect(model, key, message) {
    this.pending.set(key, "sent");
    model.send(message);
    setTimeout(() => {
      if (this.pending.get(key) === "sent") {
        this.pending.set(key, "unheard");
        this.draw();
      }
    }, HEARD_WITHIN_MS);
    this.draw();
  }

  answer(message) {
    const key = message.id === null || message.id === undefined ? "all" : pendingKey(message.id, message.index ?? null);
    if (!this.pending.has(key)) return;
    if (message.ok) this.pending.set(key, "heard");
    else this.pending.delete(key);
    this.draw();
  }

  /* What a tab asked for has come. */
  tell(message) {
    for (const view of this.views) view.tabs[message.what]?.told(message);
  }

  draw() {
    for (const view of this.views) view.draw();
  }
}

function pendingKey(id, index) {
  return index === null || index === undefined || index < 0 ? String(id) : `${id}:${index}`;
}

/* One button that stops something; its words say how far that is. */
function drawStop(button, label, pending, what) {
  button.disabled = Boolean(pending) && pending !== "unheard";
  setText(button, pending === "unheard" ? "Press ■" : pending ? "Stopping…" : label);
  button.title = pending === "unheard" ? NOT_HEARD : "";
  button.setAttribute("aria-label", pending === "unheard" ? NOT_HEARD : pending ? `Stopping ${what}` : `${label} ${what}`);
}

/* The nodes of one row: made once and then only changed, so that focus and selection stay. */
class RowView {
  constructor(view, id) {
    this.view = view;
    this.id = id;
    this.open = false;
    this.node = element("div", "nbflow-row", { role: "row" });
    const cell = (name) => {
      const node = element("div", `nbflow-${name}`, { role: "cell" });
      this.node.append(node);
      return node;
    };
    this.state = cell("state");
    this.name = cell("name");
    this.progress = cell("progress");
    this.time = cell("time");
    this.more = cell("more");
    this.action = cell("action");
    this.title = element("span", "nbflow-title");
    this.items = element("div", "nbflow-items");
    this.line = element("div", "nbflow-line");
    this.name.append(this.title);
    this.bar = element("div", "nbflow-bar", { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
    this.parts = ["done", "cached", "failed", "cancelled"].map((kind) => element("span", `nbflow-part nbflow-is-${kind}`));
    this.bar.append(...this.parts);
    this.count = element("button", "nbflow-count", { type: "button" });
    this.progress.append(this.bar, this.count);
    this.stop = element("button", "nbflow-button", { type: "button" });
    this.stop.addEventListener("click", () => view.state.click(view.model, id));
    this.unfold = element("button", "nbflow-button nbflow-quiet", { type: "button", "aria-expanded": "false" });
    this.unfold.addEventListener("click", () => {
      this.open = !this.open;
      this.draw();
    });
    this.again = element("button", "nbflow-button nbflow-quiet", { type: "button" });
    this.again.addEventListener("click", () => view.state.retry(view.model, id));
    this.action.append(this.stop, this.again, this.unfold);
    this.trace = element("pre", "nbflow-trace", { tabindex: "0" });
    this.tip = element("div", "nbflow-tip");
    this.count.addEventListener("click", () => view.showCalls(Number(id)));
    this.node.append(this.line, this.items, this.trace, this.tip);
  }

  draw() {
    const row = this.view.state.rows[this.id];
    if (this.shown !== row.state) {
      this.shown = row.state;
      this.node.dataset.state = row.state;
      this.state.replaceChildren(icon(row.state), element("span", "nbflow-word"));
      this.state.lastChild.textContent = row.state;
    }
    for (const node of [this.name, this.line, this.items])
      node.style.paddingInlineStart = row.depth ? `${row.depth * 18}px` : "";
    setText(this.title, row.name);
    this.title.title = row.name;
    setText(this.line, row.line ?? "");
    this.items.hidden = !row.items;
    this.drawItems(row.items ?? [], row.others);
    this.bar.hidden = !row.bar;
    if (row.bar) {
      this.parts.forEach((part, index) => (part.style.width = `${row.bar[index] ?? 0}%`));
      const sum = row.bar.reduce((a, b) => a + b, 0);
      this.bar.setAttribute("aria-valuenow", String(Math.round(sum)));
      this.bar.setAttribute("aria-label", `${row.name}: ${row.progress ?? ""}`);
    }
    setText(this.count, row.progress ?? "");
    this.count.disabled = !row.calls;
    this.count.title = row.calls ? "Show the single calls" : "";
    const more = [...(row.more ?? [])];
    if (row.worker) more.push(row.worker);
    setText(this.more, more.join(" · "));
    this.more.title = more.join("\n");
    const focused = this.action.contains(document.activeElement);
    this.stop.hidden = !row.stop;
    if (row.stop) drawStop(this.stop, "Cancel", this.view.state.pending.get(this.id), row.name);
    const again = this.view.state.pending.get(this.id);
    this.again.hidden = !row.retry;
    this.again.disabled = Boolean(again) && again !== "unheard";
    setText(this.again, again === "unheard" ? "Press ■" : again ? "Starting…" : "Retry");
    this.again.setAttribute("aria-label", `Run ${row.name} again`);
    this.again.title = again === "unheard" ? NOT_HEARD : "Run this call again, with the inputs that it had";
    this.unfold.hidden = !row.trace || Boolean(row.stop);
    if (row.trace) {
      setText(this.unfold, this.open ? "Hide" : "Traceback");
      this.unfold.setAttribute("aria-expanded", String(this.open));
      this.unfold.setAttribute("aria-label", `${this.open ? "Hide" : "Show"} the traceback of ${row.name}`);
      setText(this.trace, row.trace);
    }
    this.trace.hidden = !(row.trace && this.open);
    this.tip.hidden = this.trace.hidden || !row.retry;
    if (!this.tip.hidden && this.tip.dataset.name !== row.name) {
      this.tip.dataset.name = row.name;
      const code = element("code", "");
      code.textContent = `nbflow.panel().rerun(${JSON.stringify(row.name)})`;
      this.tip.replaceChildren("To look around where it fails, run ", code, " in a cell, then %debug.");
    }
    if (focused && this.stop.hidden && this.unfold.hidden && this.again.hidden) this.view.keepFocus();
    this.tick();
  }

  drawItems(items, others) {
    const lines = items.length + (others ? 1 : 0);
    while (this.items.children.length > lines) this.items.lastChild.remove();
    items.forEach(([name, since, worker, place], index) => {
      const node = this.items.children[index] ?? this.items.appendChild(this.newItem());
      node.firstChild.dataset.since = since;
      node.firstChild.dataset.text = worker ? `${name} · ${worker}` : name;
      node.dataset.index = place;
      node.lastChild.hidden = false;
      drawStop(node.lastChild, "Cancel", this.view.state.pending.get(pendingKey(this.id, place)), name);
    });
    if (others) {
      const node = this.items.children[items.length] ?? this.items.appendChild(this.newItem());
      delete node.firstChild.dataset.since;
      node.lastChild.hidden = true;
      setText(node.firstChild, `… ${others.toLocaleString("en")} more running`);
    }
  }

  newItem() {
    const node = element("div", "nbflow-item");
    const stop = element("button", "nbflow-button nbflow-small", { type: "button" });
    stop.addEventListener("click", () => this.view.state.click(this.view.model, this.id, Number(node.dataset.index)));
    node.append(element("span", "nbflow-itemname"), stop);
    return node;
  }

  /* Seconds that are left, by the share that is done or by what it took before; 0 where that is not known. */
  left() {
    const row = this.view.state.rows[this.id];
    if (!row?.since) return 0;
    const ran = Math.max(0, this.view.state.now - row.since);
    const share = row.bar ? row.bar.reduce((a, b) => a + b, 0) / 100 : 0;
    return Math.max(0, share > 0.03 && ran > 2 ? (ran * (1 - share)) / share : row.expected ? row.expected - ran : 0);
  }

  tick() {
    const row = this.view.state.rows[this.id];
    const now = this.view.state.now;
    let text = row.elapsed ?? "";
    if (row.since) {
      const ran = Math.max(0, now - row.since);
      const left = this.left();
      text = duration(ran);
      this.time.title = left > 0.5 ? `about ${roughly(left)} left` : "";
      if (left > 2) text += ` / ~${roughly(ran + left)}`;
    }
    setText(this.time, text);
    for (const node of this.items.querySelectorAll("[data-since]"))
      setText(node, `${node.dataset.text} · ${duration(Math.max(0, now - Number(node.dataset.since)))}`);
  }
}

/* One place where the panel is shown. */
class View {
  constructor(state, model, root) {
    Object.assign(this, { state, model, root, rows: new Map(), announcedAt: 0, announced: "" });
    root.className = "nbflow-panel";
    root.setAttribute("role", "region");
    root.tabIndex = -1;
    root.setAttribute("aria-label", "nbflow: what this cell runs");
    this.freeKeys = keepKeys(root);
    const header = element("div", "nbflow-head");
    const brand = element("span", "nbflow-brand");
    brand.textContent = "nbflow";
    this.summary = element("span", "nbflow-summary");
    this.stats = element("span", "nbflow-stats");
    this.clock = element("span", "nbflow-clock");
    this.stop = element("button", "nbflow-button", { type: "button" });
    this.stop.addEventListener("click", () => state.click(model, "all"));
    header.append(brand, this.summary, this.stats, this.clock, this.stop);
    this.hint = element("div", "nbflow-hint");
    this.table = element("div", "nbflow-rows", { role: "table", "aria-label": "tasks" });
    this.hidden = element("div", "nbflow-hidden");
    this.status = element("div", "nbflow-status", { role: "status", "aria-live": "polite" });
    const tasks = element("div", "nbflow-tab");
    tasks.append(this.table, this.hidden);
    this.tabs = { tasks: { node: tasks } };
    root.replaceChildren(header, this.hint, this.makeTabs(), tasks, this.status);
    for (const Kind of [CallsTab, TimelineTab, GraphTab, HistoryTab]) {
      const tab = new Kind(this);
      this.tabs[tab.what] = tab;
      tasks.parentNode.insertBefore(tab.node, this.status);
    }
    for (const [what, tab] of Object.entries(this.tabs)) {
      tab.node.setAttribute("role", "tabpanel");
      tab.node.setAttribute("aria-label", TABS[what]);
    }
    this.choose("tasks");
    this.timer = setInterval(() => this.tick(), STOPWATCH_MS);
  }

  /* One stop for the tab key; arrows, Home and End go from tab to tab. */
  makeTabs() {
    this.list = element("div", "nbflow-tabs", { role: "tablist", "aria-label": "What to show" });
    this.buttons = new Map();
    for (const [what, label] of Object.entries(TABS)) {
      const button = element("button", "nbflow-tabname", { type: "button", role: "tab" });
      button.textContent = label;
      button.addEventListener("click", () => this.choose(what));
      this.buttons.set(what, this.list.appendChild(button));
    }
    this.list.addEventListener("keydown", (event) => {
      const names = Object.keys(TABS);
      const here = names.indexOf(this.tab);
      const step = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.choose(names.at(step % names.length));
      this.buttons.get(this.tab).focus();
    });
    return this.list;
  }

  choose(what) {
    this.tab = what;
    for (const [name, tab] of Object.entries(this.tabs)) {
      tab.node.hidden = name !== what;
      this.buttons.get(name).setAttribute("aria-selected", String(name === what));
      this.buttons.get(name).tabIndex = name === what ? 0 : -1;
    }
    this.tabs[what].ask?.();
  }

  showCalls(row) {
    this.choose("items");
    this.tabs.items.restrict(row);
    this.tabs.items.query.focus({ preventScroll: true });
  }

  draw() {
    const { head, order, rows, pending } = this.state;
    setText(this.summary, head.text ?? "");
    setText(this.stats, head.stats ?? "");
    this.root.toggleAttribute("data-lone", order.length === 1 && rows[order[0]]?.lone === true);
    this.stop.hidden = !head.live;
    if (head.live) drawStop(this.stop, "Stop all", pending.get("all"), "tasks");
    else if (document.activeElement === this.stop) this.keepFocus();
    const unheard = [...pending.values()].includes("unheard");
    const deaf = head.live && head.hears === false ? "Buttons act when this cell ends; ■ stops it at once." : "";
    setText(this.hint, unheard ? NOT_HEARD : deaf);
    for (const [id, view] of this.rows) {
      if (!rows[id] || !order.includes(id)) {
        if (view.node.contains(document.activeElement)) this.keepFocus();
        view.node.remove();
        this.rows.delete(id);
      }
    }
    let previous = null;
    for (const id of order) {
      if (!rows[id]) continue;
      let view = this.rows.get(id);
      if (!view) this.rows.set(id, (view = new RowView(this, id)));
      const next = previous ? previous.nextSibling : this.table.firstChild;
      if (next !== view.node) this.table.insertBefore(view.node, next);
      previous = view.node;
      view.draw();
    }
    setText(this.hidden, head.hidden ? `… ${head.hidden.toLocaleString("en")} more` : "");
    if (this.tab === "items") this.tabs.items.draw();
    this.announce();
    this.tick();
  }

  tick() {
    const { head, now } = this.state;
    if (head.started) {
      const ran = duration(Math.max(0, (head.ended ?? now) - head.started));
      const left = head.live ? Math.max(0, ...[...this.rows.values()].map((row) => row.left())) : 0;
      setText(this.clock, left > 2 ? `${ran}, about ${roughly(left)} left` : ran);
    }
    if (head.live) for (const view of this.rows.values()) view.tick();
    this.tabs[this.tab].tick?.();
  }

  /* Screen readers hear a failure and the end at once, everything else at most every five seconds. */
  announce() {
    const { head } = this.state;
    const urgent = head.bad !== this.bad || head.live !== this.live;
    const text = head.text ?? "";
    if (text === this.announced || (!urgent && Date.now() - this.announcedAt < ANNOUNCE_MS)) return;
    Object.assign(this, { bad: head.bad, live: head.live, announced: text, announcedAt: Date.now() });
    this.status.textContent = text;
  }

  /* A button that goes away must not throw the keyboard user back to the top of the page. */
  keepFocus() {
    (this.stop.hidden || this.stop.disabled || !this.stop.offsetParent ? this.root : this.stop).focus({
      preventScroll: true,
    });
  }

  close() {
    clearInterval(this.timer);
    this.freeKeys();
    this.state.views.delete(this);
  }
}

export default () => {
  const state = new State();
  return {
    async initialize({ model }) {
      const onMessage = (message) => {
        if (message?.kind === "frame") state.fold(message);
        else if (message?.kind === "ack") state.answer(message);
        else if (message?.kind === "told") state.tell(message);
      };
      state.load(model.get("snapshot"));
      const onLoss = () => state.lose();
      model.on("msg:custom", onMessage);
      model.on("comm_live_update", onLoss);
      await keepHearing(model);
      model.send({ kind: "hello" });
      return () => {
        model.off("msg:custom", onMessage);
        model.off("comm_live_update", onLoss);
      };
    },
    render({ model, el }) {
      const view = new View(state, model, el.appendChild(document.createElement("div")));
      state.views.add(view);
      if (!state.order.length) state.load(model.get("snapshot"));
      view.draw();
      return () => view.close();
    },
  };
};
