/* The panel in the front end: draws what the kernel sends and sends clicks back. No imports, so it works offline.
 *
 * One `State` for each widget folds frames (differences) and snapshots; any number of views draw it. The kernel sends facts
 * only when something changed; stopwatches tick here, by the kernel's clock. Names of fields are those of `widget.encode`.
 */

const STOPWATCH_MS = 200;
const ANNOUNCE_MS = 5000;
const HEARD_WITHIN_MS = 2000;
const NOT_HEARD =
  "The kernel cannot hear this button while the cell runs. Press ■ (interrupt) in the toolbar: it cancels this run cleanly.";

const ICONS = {
  queued: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Z",
  running: "M8 2.5a5.5 5.5 0 1 1-5.5 5.5",
  retrying: "M13 8a5 5 0 1 1-1.6-3.7M13.2 2v3h-3",
  done: "M3 8.5l3.4 3.4L13 4.8",
  cached: "M8.8 2 4 9h3.4L6.8 14 12 7H8.4Z",
  failed: "M4 4l8 8M12 4l-8 8",
  "timed out": "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11ZM8 5v3.2l2 1.6",
  cancelled: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11ZM4.2 4.2l7.6 7.6",
  "left running": "M4 8h.01M8 8h.01M12 8h.01",
};

/* Seconds as people read them; the same words as format_duration of the Python side. */
function duration(seconds) {
  if (seconds < 0.0995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [big, small, bigName, smallName] of [[86400, 3600, "d", "h"], [3600, 60, "h", "min"], [60, 1, "min", "s"]]) {
    if (whole >= big) {
      const low = Math.floor((whole % big) / small);
      return `${Math.floor(whole / big)} ${bigName}${low ? ` ${low} ${smallName}` : ""}`;
    }
  }
  return `${whole} s`;
}

function element(tag, className, attributes = {}) {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function icon(state) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [name, value] of [["viewBox", "0 0 16 16"], ["width", "14"], ["height", "14"], ["aria-hidden", "true"]])
    svg.setAttribute(name, value);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[state] ?? ICONS.queued);
  svg.append(path);
  return svg;
}

/* Writing only what differs keeps text selectable and the page from laying out anew at every tick. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/* The facts, shared by all views of one widget. */
class State {
  constructor() {
    this.head = {};
    this.order = [];
    this.rows = {};
    this.pending = new Map(); // what was clicked: row id, or "all" -> "sent" | "heard" | "unheard"
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
    if (frame.head) this.head = frame.head;
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
    for (const id of this.pending.keys())
      if (id === "all" ? !this.head.live : !this.rows[id]?.stop) this.pending.delete(id);
    this.draw();
  }

  setClock(now) {
    if (now) this.ahead = now - Date.now() / 1000;
  }

  get now() {
    return Date.now() / 1000 + this.ahead;
  }

  /* A click: say so at once, wait for the kernel's word, and admit it when none comes. */
  click(model, id) {
    this.pending.set(id, "sent");
    model.send(id === "all" ? { kind: "stop" } : { kind: "cancel", id: Number(id) });
    setTimeout(() => {
      if (this.pending.get(id) === "sent") {
        this.pending.set(id, "unheard");
        this.draw();
      }
    }, HEARD_WITHIN_MS);
    this.draw();
  }

  answer(message) {
    const id = message.id === null || message.id === undefined ? "all" : String(message.id);
    if (!this.pending.has(id)) return;
    if (message.ok) this.pending.set(id, "heard");
    else this.pending.delete(id);
    this.draw();
  }

  draw() {
    for (const view of this.views) view.draw();
  }
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
    this.name.append(this.title, this.line, this.items);
    this.bar = element("div", "nbflow-bar", { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
    this.parts = ["done", "cached", "failed", "cancelled"].map((kind) => element("span", `nbflow-part nbflow-is-${kind}`));
    this.bar.append(...this.parts);
    this.count = element("span", "nbflow-count");
    this.progress.append(this.bar, this.count);
    this.stop = element("button", "nbflow-button", { type: "button" });
    this.stop.addEventListener("click", () => view.state.click(view.model, id));
    this.unfold = element("button", "nbflow-button nbflow-quiet", { type: "button", "aria-expanded": "false" });
    this.unfold.addEventListener("click", () => {
      this.open = !this.open;
      this.draw();
    });
    this.action.append(this.stop, this.unfold);
    this.trace = element("pre", "nbflow-trace", { tabindex: "0" });
    this.trace.hidden = true;
    this.node.append(this.trace);
  }

  draw() {
    const row = this.view.state.rows[this.id];
    if (this.shown !== row.state) {
      this.shown = row.state;
      this.node.dataset.state = row.state;
      this.state.replaceChildren(icon(row.state), element("span", "nbflow-word"));
      this.state.lastChild.textContent = row.state;
    }
    this.name.style.paddingInlineStart = row.depth ? `${row.depth * 18}px` : "";
    setText(this.title, row.name);
    this.title.title = row.name;
    setText(this.line, row.line ?? "");
    this.drawItems(row.items ?? [], row.others);
    this.bar.hidden = !row.bar;
    if (row.bar) {
      row.bar.forEach((share, index) => (this.parts[index].style.width = `${share}%`));
      const sum = row.bar.reduce((a, b) => a + b, 0);
      this.bar.setAttribute("aria-valuenow", String(Math.round(sum)));
      this.bar.setAttribute("aria-label", `${row.name}: ${row.progress ?? ""}`);
    }
    setText(this.count, row.progress ?? "");
    const more = [...(row.more ?? [])];
    if (row.worker) more.push(row.worker);
    setText(this.more, more.join(" · "));
    this.more.title = more.join("\n");
    const focused = this.action.contains(document.activeElement);
    this.stop.hidden = !row.stop;
    if (row.stop) drawStop(this.stop, "Cancel", this.view.state.pending.get(this.id), row.name);
    this.unfold.hidden = !row.trace || Boolean(row.stop);
    if (row.trace) {
      setText(this.unfold, this.open ? "Hide" : "Traceback");
      this.unfold.setAttribute("aria-expanded", String(this.open));
      this.unfold.setAttribute("aria-label", `${this.open ? "Hide" : "Show"} the traceback of ${row.name}`);
      setText(this.trace, row.trace);
    }
    this.trace.hidden = !(row.trace && this.open);
    if (focused && this.stop.hidden && this.unfold.hidden) this.view.keepFocus();
    this.tick();
  }

  drawItems(items, others) {
    const lines = items.length + (others ? 1 : 0);
    while (this.items.children.length > lines) this.items.lastChild.remove();
    items.forEach(([name, since, worker], index) => {
      const node = this.items.children[index] ?? this.items.appendChild(element("div", "nbflow-item"));
      node.dataset.since = since;
      node.dataset.text = worker ? `${name} · ${worker}` : name;
    });
    if (others) {
      const node = this.items.children[items.length] ?? this.items.appendChild(element("div", "nbflow-item"));
      delete node.dataset.since;
      setText(node, `… ${others.toLocaleString("en")} more running`);
    }
  }

  tick() {
    const row = this.view.state.rows[this.id];
    const now = this.view.state.now;
    let text = row.elapsed ?? "";
    if (row.since) {
      const ran = Math.max(0, now - row.since);
      const share = row.bar ? row.bar.reduce((a, b) => a + b, 0) / 100 : 0;
      const left = share > 0.03 && ran > 2 ? (ran * (1 - share)) / share : row.expected ? row.expected - ran : 0;
      text = duration(ran);
      this.time.title = left > 0.5 ? `about ${duration(left)} left` : "";
      if (left > 2) text += ` / ~${duration(ran + left)}`;
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
    const header = element("div", "nbflow-head");
    const brand = element("span", "nbflow-brand");
    brand.textContent = "nbflow";
    this.summary = element("span", "nbflow-summary");
    this.clock = element("span", "nbflow-clock");
    this.stop = element("button", "nbflow-button", { type: "button" });
    this.stop.addEventListener("click", () => state.click(model, "all"));
    header.append(brand, this.summary, this.clock, this.stop);
    this.hint = element("div", "nbflow-hint");
    this.table = element("div", "nbflow-rows", { role: "table", "aria-label": "tasks" });
    this.hidden = element("div", "nbflow-hidden");
    this.status = element("div", "nbflow-status", { role: "status", "aria-live": "polite" });
    root.replaceChildren(header, this.hint, this.table, this.hidden, this.status);
    this.timer = setInterval(() => this.tick(), STOPWATCH_MS);
  }

  draw() {
    const { head, order, rows, pending } = this.state;
    setText(this.summary, head.text ?? "");
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
    this.announce();
    this.tick();
  }

  tick() {
    const { head, now } = this.state;
    if (head.started) setText(this.clock, duration(Math.max(0, (head.ended ?? now) - head.started)));
    if (head.live) for (const view of this.rows.values()) view.tick();
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
    this.state.views.delete(this);
  }
}

export default () => {
  const state = new State();
  return {
    initialize({ model }) {
      const onMessage = (message) => {
        if (message?.kind === "frame") state.fold(message);
        else if (message?.kind === "ack") state.answer(message);
      };
      state.load(model.get("snapshot"));
      model.on("msg:custom", onMessage);
      model.send({ kind: "hello" });
      return () => model.off("msg:custom", onMessage);
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
