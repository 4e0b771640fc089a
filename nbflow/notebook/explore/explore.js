/* The front end of an explorer: controls, and the result of the setting that they are at. No imports, so it works offline.
 *
 * A control is a position: the number of a step or choice, a text, a date as text, a boolean. Movements are sent at most
 * twenty times a second, the last one always; the result on show is greyed while it belongs to another setting.
 */

const SEND_EVERY_MS = 50;
const TICK_MS = 100;

function element(tag, className, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function seconds(ms) {
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min ${Math.floor((ms % 60000) / 1000)} s`;
}

let numbers = 0;

/* One control: `node` to show, `get` and `set` its position, `mark` the positions that are cached. */
function makeControl(facts, position, moved) {
  const id = `nbflow-explore-${++numbers}`;
  const node = element("div", "nbflow-control");
  const label = element("label", "nbflow-name", { for: id });
  label.textContent = facts.name;
  node.append(label);
  const control = { name: facts.name, node, mark() {} };
  if (facts.kind === "slider") slider(facts, id, control, moved);
  else if (facts.kind === "choice") choice(facts, id, control, moved);
  else if (facts.kind === "check") check(id, control, moved);
  else field(facts, id, control, moved);
  control.set(position);
  return control;
}

function slider(facts, id, control, moved) {
  const box = element("div", "nbflow-slide");
  const input = element("input", "", { id, type: "range", min: 0, max: facts.steps - 1, step: 1 });
  const marks = element("div", "nbflow-marks", { "aria-hidden": "true" });
  const value = element("output", "nbflow-value", { for: id });
  const text = (at) => {
    const number = facts.low + at * facts.step;
    return facts.digits == null ? String(number) : number.toFixed(facts.digits);
  };
  let cached = new Set();
  const show = () => {
    const at = Number(input.value);
    setText(value, text(at));
    value.dataset.cached = cached.has(at);
    value.title = cached.has(at) ? "cached: shown at once" : "";
    input.setAttribute("aria-valuetext", text(at) + (cached.has(at) ? ", cached" : ""));
  };
  input.addEventListener("input", () => { show(); moved(); });
  control.get = () => Number(input.value);
  control.set = (at) => { input.value = at; show(); };
  control.mark = (positions) => {
    cached = new Set(positions);
    marks.replaceChildren(...positions.map((at) => {
      const dot = element("i", "");
      dot.style.left = facts.steps > 1 ? `${(100 * at) / (facts.steps - 1)}%` : "50%";
      return dot;
    }));
    show();
  };
  box.append(input, marks);
  control.node.append(box, value);
}

function choice(facts, id, control, moved) {
  const input = element("select", "", { id });
  facts.labels.forEach((text, at) => {
    const option = element("option", "", { value: at });
    option.textContent = text;
    input.append(option);
  });
  input.addEventListener("change", moved);
  control.get = () => Number(input.value);
  control.set = (at) => { input.value = at; };
  control.mark = (positions) => {
    const cached = new Set(positions);
    facts.labels.forEach((text, at) => setText(input.options[at], cached.has(at) ? `${text}  ✓ cached` : text));
  };
  control.node.append(input);
}

function check(id, control, moved) {
  const input = element("input", "", { id, type: "checkbox" });
  input.addEventListener("change", moved);
  control.get = () => input.checked;
  control.set = (on) => { input.checked = on; };
  control.node.append(input);
}

function field(facts, id, control, moved) {
  const type = { date: "date", datetime: "datetime-local", text: "text" }[facts.kind];
  const input = element("input", "", { id, type, spellcheck: "false" });
  if (facts.kind !== "text") Object.assign(input, { min: facts.low, max: facts.high });
  if (facts.kind === "datetime") input.step = 1;
  let last = "";
  input.addEventListener(facts.kind === "text" ? "input" : "change", () => { if (input.value || type === "text") moved(); });
  control.get = () => (input.value || type === "text" ? input.value : last);
  control.set = (text) => { last = text; if (input.value !== text) input.value = text; };
  control.node.append(input);
}

/* One part of a result; HTML is that of the user's own values, as in any output. */
function makePart([kind, data]) {
  if (kind === "png" || kind === "jpeg") return element("img", "", { src: `data:image/${kind};base64,${data}`, alt: "result" });
  const node = element(kind === "html" || kind === "svg" ? "div" : "pre", `nbflow-part nbflow-${kind}`);
  if (kind === "html" || kind === "svg") {
    node.classList.add("jp-RenderedHTMLCommon");
    node.innerHTML = data;
  } else node.textContent = data;
  return node;
}

class Explorer {
  constructor(model) {
    this.model = model;
    this.at = null; // the positions that the result on show belongs to
    this.since = null; // when the call that runs began
    this.sent = 0;
    this.root = element("div", "nbflow-explore");
    this.root.setAttribute("role", "group");
    this.freeKeys = keepKeys(this.root, true); // a letter too many would cut or delete the cell
    this.head = element("div", "nbflow-head");
    this.title = element("span", "nbflow-title");
    this.status = element("span", "nbflow-status", { role: "status", "aria-live": "polite" });
    this.keep = element("button", "", { type: "button", title: "Write this setting as the text of a cell" });
    this.keep.textContent = "Keep";
    this.head.append(this.title, this.status, this.keep);
    this.box = element("div", "nbflow-controls");
    this.bar = element("div", "nbflow-bar", { "aria-hidden": "true" });
    this.bar.append(element("i", ""));
    this.result = element("div", "nbflow-result", { "aria-busy": "true" });
    this.kept = element("div", "nbflow-kept");
    this.kept.hidden = true;
    this.root.append(this.head, this.box, this.bar, this.kept, this.result);
    this.keep.addEventListener("click", () => this.send({ kind: "keep" }));
    this.hear = (message) => this.heard(message);
    model.on("msg:custom", this.hear);
    this.lose = () => this.lost();
    model.on("comm_live_update", this.lose);
    this.build(model.get("head"));
    this.send({ kind: "hello" });
  }

  send(message) {
    this.model.send(message);
  }

  build(head) {
    setText(this.title, head.title);
    this.root.setAttribute("aria-label", `Explore ${head.title}`);
    this.controls = head.controls.map((facts, at) => makeControl(facts, head.positions[at], () => this.moved(at)));
    this.box.replaceChildren(...this.controls.map((control) => control.node));
    this.wait();
  }

  positions() {
    return this.controls.map((control) => control.get());
  }

  moved(at) {
    this.controls.forEach((control, other) => { if (other !== at) control.mark([]); }); // these belong to the setting before
    this.wait();
    if (this.timer) return;
    const now = () => {
      this.timer = null;
      this.sent = Date.now();
      this.send({ kind: "set", positions: this.positions() });
    };
    const rest = this.sent + SEND_EVERY_MS - Date.now();
    if (rest <= 0) now();
    else this.timer = setTimeout(now, rest);
  }

  /* Whether the result on show is that of the setting. */
  isCurrent() {
    return this.at !== null && JSON.stringify(this.at) === JSON.stringify(this.positions());
  }

  wait() {
    const stale = !this.isCurrent();
    this.root.dataset.stale = stale;
    this.result.setAttribute("aria-busy", String(stale));
    if (stale) this.tick();
    else {
      this.stop();
      this.status.dataset.state = this.failed ? "failed" : "done";
      setText(this.status, this.words ?? "");
    }
  }

  tick() {
    this.status.dataset.state = this.since ? "running" : "waiting";
    setText(this.status, this.since ? `running ${seconds(Date.now() - this.since)}` : "waiting");
    this.ticker ??= setInterval(() => this.tick(), TICK_MS);
  }

  /* The kernel is gone: the result stays, and there is nothing to be moved any more. */
  lost() {
    this.stop();
    this.box.inert = true;
    this.keep.disabled = true;
    this.root.dataset.stale = true;
    this.status.dataset.state = "failed";
    setText(this.status, "the kernel has ended");
  }

  stop() {
    clearInterval(this.ticker);
    this.ticker = null;
    this.bar.dataset.known = false;
  }

  heard(message) {
    if (message.kind === "all") {
      this.controls.forEach((control, at) => control.set(message.positions[at]));
      this.since = message.busy ? Date.now() : null;
      if (message.at) this.show(message);
      this.marked(message.marks);
    } else if (message.kind === "running") {
      this.since = Date.now();
      this.follow(message.positions);
    } else if (message.kind === "stopped") this.since = null;
    else if (message.kind === "progress") this.progress(message);
    else if (message.kind === "result") {
      this.since = null;
      this.show(message);
    } else if (message.kind === "marks") this.marked(message.marks);
    else if (message.kind === "kept") this.showKept(message.text);
    this.wait();
  }

  /* Another view, or code, has moved the controls; a hand that is on one of ours goes first. */
  follow(positions) {
    if (this.timer || this.box.contains(document.activeElement)) return;
    this.controls.forEach((control, at) => control.set(positions[at]));
  }

  show({ parts, words, failed, at }) {
    Object.assign(this, { at, words, failed });
    if (!this.box.contains(document.activeElement)) this.controls.forEach((control, place) => control.set(at[place]));
    const height = this.result.offsetHeight; // no jump while pictures load
    this.result.style.minHeight = `${height}px`;
    this.result.replaceChildren(...parts.map(makePart));
    const pictures = [...this.result.querySelectorAll("img")].map((each) => each.decode().catch(() => null));
    Promise.all(pictures).then(() => { this.result.style.minHeight = ""; });
  }

  progress({ done, total }) {
    this.bar.dataset.known = Boolean(total);
    this.bar.firstChild.style.width = total ? `${Math.min(100, (100 * done) / total)}%` : "0";
  }

  marked(marks) {
    for (const control of this.controls) control.mark(marks?.[control.name] ?? []);
  }

  showKept(text) {
    const area = element("textarea", "", { readonly: "", rows: Math.min(12, text.split("\n").length), "aria-label": "Text to keep" });
    area.value = text;
    const copy = element("button", "", { type: "button" });
    copy.textContent = "Copy";
    copy.addEventListener("click", async () => {
      area.select();
      try { await navigator.clipboard.writeText(text); } catch { document.execCommand("copy"); }
      setText(copy, "Copied");
    });
    const close = element("button", "", { type: "button", "aria-label": "Close" });
    close.textContent = "×";
    close.addEventListener("click", () => { this.kept.hidden = true; this.keep.focus(); });
    this.kept.replaceChildren(area, copy, close);
    this.kept.hidden = false;
    copy.focus();
  }

  remove() {
    this.stop();
    clearTimeout(this.timer);
    this.freeKeys();
    this.model.off("msg:custom", this.hear);
    this.model.off("comm_live_update", this.lose);
  }
}

export default {
  initialize: ({ model }) => keepHearing(model),
  render({ model, el }) {
    const explorer = new Explorer(model);
    el.append(explorer.root);
    return () => explorer.remove();
  },
};
