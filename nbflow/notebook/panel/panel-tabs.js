/* The tabs of the panel: single calls by the page, timeline, graph and history. Each asks the kernel only while it is open.
 *
 * Part of one script with panel.js, which follows it. What the kernel answers is described in look.py.
 */

const LINE_PX = 26;
const PAGE = 60;
const ASK_AGAIN_MS = { items: 1500, timeline: 3000, graph: 5000, history: 30000 };
const STATES = ["failed", "timed out", "running", "done", "cached", "cancelled"];

/* One tab's content: asks when shown, asks again while things change, draws what comes. */
class Tab {
  constructor(view, what) {
    Object.assign(this, { view, what, node: element("div", `nbflow-tab nbflow-${what}`), askedAt: 0, final: false });
    this.node.tabIndex = 0;
  }

  get question() {
    return {};
  }

  ask() {
    if (this.view.state.lost) return;
    this.askedAt = Date.now();
    this.final = !this.view.state.head.live;
    this.view.model.send({ kind: "ask", what: this.what, ...this.question });
  }

  /* Once more after the end, then no more. */
  tick() {
    const live = this.view.state.head.live;
    if (live ? Date.now() - this.askedAt > ASK_AGAIN_MS[this.what] : !this.final) this.ask();
  }
}

/* All calls, found by name, state and task; only the lines in sight exist, and only their pages are asked for. */
class CallsTab extends Tab {
  constructor(view) {
    super(view, "items");
    this.node.tabIndex = -1;
    Object.assign(this, { scope: null, offset: 0, total: 0, pages: new Map(), lines: [] });
    const bar = element("div", "nbflow-find");
    this.query = element("input", "nbflow-input", { type: "search", placeholder: "Find by name", "aria-label": "Find calls by name" });
    this.choice = element("select", "nbflow-input", { "aria-label": "Show calls in this state" });
    for (const state of ["", ...STATES]) {
      const option = element("option", "", { value: state });
      option.textContent = state || "any state";
      this.choice.append(option);
    }
    this.chip = element("button", "nbflow-button nbflow-quiet", { type: "button" });
    this.chip.addEventListener("click", () => this.restrict(null));
    this.count = element("span", "nbflow-soft", { role: "status" });
    bar.append(this.query, this.choice, this.chip, this.count);
    this.scroller = element("div", "nbflow-list", { tabindex: "0", role: "list", "aria-label": "calls" });
    this.inner = element("div", "nbflow-inner");
    this.scroller.append(this.inner);
    this.node.append(bar, this.scroller);
    this.query.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.restart(), 150);
    });
    this.choice.addEventListener("change", () => this.restart());
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
  }

  get question() {
    return { query: this.query.value, state: this.choice.value, scope: this.scope, offset: this.offset };
  }

  restrict(scope) {
    this.scope = scope;
    this.restart();
  }

  restart() {
    this.offset = 0;
    this.pages.clear();
    this.scroller.scrollTop = 0;
    this.ask();
  }

  scrolled() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / LINE_PX) - 8);
    this.draw();
    if (first >= this.offset && first + 24 <= this.offset + PAGE) return;
    this.offset = Math.max(0, first - 16);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.ask(), 60);
  }

  told(answer) {
    this.total = answer.total;
    this.pages = new Map(answer.rows.map((row, index) => [answer.offset + index, row]));
    this.chip.hidden = answer.scope === null || answer.scope === undefined;
    setText(this.chip, `in ${answer.scope} ×`);
    this.chip.setAttribute("aria-label", `Only calls of ${answer.scope}; show all`);
    setText(this.count, `${answer.total.toLocaleString("en")} call${answer.total === 1 ? "" : "s"}`);
    this.draw();
  }

  draw() {
    this.inner.style.height = `${this.total * LINE_PX}px`;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / LINE_PX) - 2);
    const last = Math.min(this.total, first + Math.ceil((this.scroller.clientHeight || 320) / LINE_PX) + 4);
    while (this.lines.length > last - first) this.lines.pop().node.remove();
    for (let index = first; index < last; index++) {
      const line = (this.lines[index - first] ??= this.newLine());
      line.node.style.transform = `translateY(${index * LINE_PX}px)`;
      this.drawLine(line, this.pages.get(index), index);
    }
  }

  newLine() {
    const node = this.inner.appendChild(element("div", "nbflow-call", { role: "listitem" }));
    const parts = ["state", "title", "worker", "time", "action"].map((name) => node.appendChild(element("div", `nbflow-${name}`)));
    const [state, title, worker, time, action] = parts;
    const stop = action.appendChild(element("button", "nbflow-button", { type: "button" }));
    const line = { node, state, title, worker, time, stop };
    stop.addEventListener("click", () => this.view.state.click(this.view.model, line.owner, line.index));
    return line;
  }

  drawLine(line, row, index) {
    line.node.setAttribute("aria-posinset", String(index + 1));
    line.node.setAttribute("aria-setsize", String(this.total));
    const [name, state, began, seconds, worker, saved, owner, place] = row ?? ["…", "queued", 0, 0, "", 0, 0, -1];
    if (line.shown !== state) {
      line.shown = state;
      line.node.dataset.state = state;
      line.state.replaceChildren(icon(state), element("span", "nbflow-word"));
    }
    setText(line.state.lastChild, row ? state : "");
    Object.assign(line, { owner: String(owner), index: place >= 0 ? place : null });
    setText(line.title, name);
    line.title.title = name;
    setText(line.worker, worker);
    const took = seconds !== null && seconds < 0.0005 ? "< 1 ms" : duration(seconds ?? this.view.state.now - began);
    const text = state !== "cached" ? took : saved >= 0.05 ? `saved ${duration(saved)}` : "";
    setText(line.time, row ? text : "");
    line.stop.hidden = state !== "running";
    if (!line.stop.hidden) drawStop(line.stop, "Cancel", this.view.state.pending.get(pendingKey(line.owner, line.index)), name);
  }
}

/* Who ran what, when: a lane for each worker. */
class TimelineTab extends Tab {
  constructor(view) {
    super(view, "timeline");
  }

  told({ span, lanes, hidden, units, bars }) {
    this.node.replaceChildren();
    if (!lanes.length) return this.node.append(empty("Nothing has run yet: what came from the cache takes no time."));
    const tracks = lanes.map((name) => {
      const lane = element("div", "nbflow-lane");
      const label = lane.appendChild(element("div", "nbflow-lanename"));
      label.textContent = label.title = name;
      this.node.append(lane);
      return lane.appendChild(element("div", "nbflow-track"));
    });
    for (const [lane, left, width, state, count, name] of bars) {
      const bar = element("span", "nbflow-stretch");
      bar.dataset.state = state;
      bar.style.left = `${(100 * left) / units}%`;
      bar.style.width = `${(100 * width) / units}%`;
      bar.title = `${name || `${count} calls`} · ${state} · ${duration((span * width) / units)}`;
      tracks[lane].append(bar);
    }
    const axis = element("div", "nbflow-axis");
    for (const at of ticks(span)) {
      const tick = axis.appendChild(element("span", "nbflow-tick"));
      tick.style.left = `${(100 * at) / span}%`;
      tick.textContent = at ? duration(at) : "0";
    }
    const foot = element("div", "nbflow-lane");
    foot.append(element("div", "nbflow-lanename"), axis);
    this.node.append(foot, this.legend(bars));
    if (hidden) this.node.append(empty(`… ${hidden} more workers`));
    const words = STATES.map((state) => [state, bars.reduce((sum, bar) => sum + (bar[3] === state ? bar[4] : 0), 0)]);
    const said = words.filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
    this.node.setAttribute("aria-label", `Timeline of ${duration(span)} on ${lanes.length} workers: ${said.join(", ")}`);
  }

  legend(bars) {
    const legend = element("div", "nbflow-legend");
    for (const state of STATES.filter((each) => bars.some((bar) => bar[3] === each))) {
      const item = legend.appendChild(element("span", "nbflow-key"));
      item.dataset.state = state;
      item.append(icon(state), state);
    }
    return legend;
  }
}

/* Which task feeds which, drawn by the kernel. */
class GraphTab extends Tab {
  constructor(view) {
    super(view, "graph");
  }

  told({ svg }) {
    if (svg === this.svg) return;
    this.svg = svg;
    if (svg) this.node.innerHTML = svg; // made and escaped by drawing.py
    else this.node.replaceChildren(empty("Nothing to draw yet."));
  }
}

/* How long each task took in earlier runs. */
class HistoryTab extends Tab {
  constructor(view) {
    super(view, "history");
  }

  told({ tasks }) {
    this.node.replaceChildren();
    if (!tasks.length) return this.node.append(empty("No earlier run of these tasks is known."));
    for (const [name, of, typical, runs] of tasks) {
      const line = this.node.appendChild(element("div", "nbflow-past"));
      const title = line.appendChild(element("div", "nbflow-title"));
      title.textContent = of ? `${name} · ${of}` : name;
      const most = Math.max(...runs, 1e-9);
      const label = `${runs.length} run${runs.length === 1 ? "" : "s"}, the latest took ${duration(runs.at(-1))}`;
      const chart = line.appendChild(element("div", "nbflow-chart", { role: "img", "aria-label": label }));
      for (const seconds of runs) {
        const bar = chart.appendChild(element("span", "nbflow-column"));
        bar.style.height = `${Math.max(6, (100 * seconds) / most)}%`;
        bar.title = duration(seconds);
      }
      const text = line.appendChild(element("div", "nbflow-soft"));
      text.textContent = `usually ${duration(typical)} · last ${duration(runs.at(-1))}`;
    }
  }
}

function empty(text) {
  const node = element("div", "nbflow-soft");
  node.textContent = text;
  return node;
}

/* Round places on an axis, at most seven. */
function ticks(span) {
  let step = 10 ** Math.floor(Math.log10(span / 6));
  step *= [1, 2, 5, 10].find((factor) => span / (step * factor) <= 6);
  return Array.from({ length: Math.floor((span * 0.97) / step) + 1 }, (_, number) => number * step);
}
