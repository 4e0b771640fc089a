/* The front end of the dataset browser: a table of datasets, and what is known of the one that is chosen. No imports, so it
 * works offline. Everything is asked of the kernel by number; answers to questions that are no longer of interest are dropped.
 */

const COLUMNS = [
  ["key", "Key"], ["type", "Type"], ["shape", "Shape"], ["size", "Size"], ["age", "Age"], ["versions", "Versions"], ["origin", "Made by"],
];
const SORTED = new Set(["key", "type", "size", "age", "versions"]);
const TYPED_MS = 200;

function element(tag, className, attributes = {}, text = null) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function button(text, act, attributes = {}) {
  const node = element("button", "", { type: "button", ...attributes }, text);
  node.addEventListener("click", act);
  return node;
}

async function copy(text, node) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = element("textarea");
    area.value = text;
    node.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  node.textContent = "Copied";
  setTimeout(() => { node.textContent = "Copy"; }, 1500);
}

class Browser {
  constructor(model) {
    this.model = model;
    this.number = 0;
    this.waiting = new Map(); // number of a question -> what to do with its answer
    this.latest = {}; // kind of question -> its newest number
    this.sort = { column: "key", backwards: false };
    this.chosen = null;
    this.root = element("div", "nbflow-datasets", { role: "group", "aria-label": "Datasets" });
    this.freeKeys = keepKeys(this.root, true); // a letter too many would cut or delete the cell
    const head = element("div", "nbflow-head");
    this.title = element("span", "nbflow-title", {}, "Datasets");
    this.base = element("span", "nbflow-base");
    this.place(model.get("head"));
    this.search = element("input", "", { type: "search", placeholder: "Filter", "aria-label": "Filter datasets" });
    head.append(this.title, this.base, this.search, button("Refresh", () => this.list()));
    this.search.addEventListener("input", () => {
      clearTimeout(this.typed);
      this.typed = setTimeout(() => this.list(), TYPED_MS);
    });
    this.box = element("div", "nbflow-list");
    this.table = element("table", "", { role: "grid", "aria-label": "Datasets" });
    this.columns = element("tr");
    for (const [name, title] of COLUMNS) {
      const cell = element("th", "", { scope: "col" });
      if (SORTED.has(name)) cell.append(button(title, () => this.sortBy(name), { "data-column": name }));
      else cell.textContent = title;
      this.columns.append(cell);
    }
    const top = element("thead");
    top.append(this.columns);
    this.body = element("tbody");
    this.table.append(top, this.body);
    this.box.append(this.table);
    this.note = element("div", "nbflow-note", { role: "status", "aria-live": "polite" });
    this.detail = element("div", "nbflow-detail", { role: "region", "aria-label": "Dataset" });
    this.detail.hidden = true;
    this.root.append(head, this.box, this.note, this.detail);
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.hear = (message) => this.heard(message);
    model.on("msg:custom", this.hear);
    this.lose = () => this.say("The kernel has ended: this is what there was. Run the cell again to browse on.", true);
    model.on("comm_live_update", this.lose);
    this.list();
  }

  ask(kind, content, then) {
    const number = ++this.number;
    this.latest[kind] = number;
    this.waiting.set(number, then);
    this.model.send({ kind, number, ...content });
  }

  heard(answer) {
    const then = this.waiting.get(answer.number);
    this.waiting.delete(answer.number);
    if (!then || this.latest[answer.kind] !== answer.number) return;
    if (answer.error) this.say(answer.error, true);
    else then(answer);
  }

  say(text, bad = false) {
    this.note.textContent = text;
    this.note.dataset.bad = bad;
    this.note.hidden = !text;
  }

  place({ base, path }) {
    this.base.textContent = base;
    this.base.title = path;
  }

  list() {
    this.ask("list", { filter: this.search.value, sort: this.sort.column, backwards: this.sort.backwards }, (answer) => {
      this.rows = answer.rows;
      this.place(answer);
      const hidden = answer.total - answer.rows.length;
      this.say(!answer.total ? (this.search.value ? "No dataset fits." : "No datasets yet.") : hidden ? `… ${hidden} more; filter to see them` : "");
      this.draw();
    });
  }

  sortBy(column) {
    this.sort = { column, backwards: this.sort.column === column && !this.sort.backwards };
    this.list();
  }

  draw() {
    for (const cell of this.columns.children) {
      const name = cell.firstElementChild?.dataset.column;
      if (name === this.sort.column) cell.setAttribute("aria-sort", this.sort.backwards ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const held = this.body.contains(document.activeElement);
    this.body.replaceChildren(...this.rows.map((row, at) => {
      const line = element("tr", "", { tabindex: at === 0 ? 0 : -1, "data-key": row.key });
      for (const [name] of COLUMNS) line.append(element("td", `nbflow-${name}`, {}, String(row[name] || "")));
      line.addEventListener("click", () => this.choose(row.key));
      return line;
    }));
    const chosen = this.line(this.chosen);
    if (this.chosen !== null && !chosen) this.close();
    else if (chosen) this.mark(chosen, held);
  }

  line(key) {
    return [...this.body.children].find((line) => line.dataset.key === key);
  }

  mark(line, focus) {
    for (const other of this.body.children) {
      other.tabIndex = other === line ? 0 : -1;
      other.setAttribute("aria-selected", String(other === line));
    }
    if (focus) line.focus();
  }

  key(event) {
    const line = event.target.closest("tr");
    const moves = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling, Home: this.body.firstElementChild, End: this.body.lastElementChild };
    if (event.key in moves) {
      if (moves[event.key]) moves[event.key].focus();
    } else if (event.key === "Enter" || event.key === " ") this.choose(line.dataset.key);
    else if (event.key === "Escape") this.close();
    else if (event.key === "Delete") { this.choose(line.dataset.key); this.confirm(); }
    else return;
    event.preventDefault();
  }

  close() {
    this.chosen = null;
    this.detail.hidden = true;
    for (const line of this.body.children) line.setAttribute("aria-selected", "false");
  }

  choose(key) {
    this.chosen = key;
    this.version = null;
    this.mark(this.line(key), false);
    const head = element("div", "nbflow-head");
    this.snippet = element("code", "nbflow-snippet");
    const copier = button("Copy", () => copy(this.snippet.textContent, copier), { title: "Copy the code that loads it" });
    this.remove = button("Delete…", () => this.confirm());
    head.append(element("span", "nbflow-title", {}, key), this.snippet, copier, this.remove, button("×", () => this.close(), { "aria-label": "Close" }));
    this.asking = element("div", "nbflow-confirm", { role: "alertdialog", "aria-label": "Delete?" });
    this.asking.hidden = true;
    this.past = element("div", "nbflow-past");
    this.page = element("div", "nbflow-page", { tabindex: 0, "aria-label": "Preview" });
    this.detail.replaceChildren(head, this.asking, this.past, this.page);
    this.detail.hidden = false;
    this.ask("versions", { key }, (answer) => this.showVersions(answer.versions));
    this.preview(0);
  }

  confirm() {
    const versions = this.rows.find((row) => row.key === this.chosen)?.versions;
    const all = versions > 1 ? ` with all ${versions} versions` : "";
    const no = button("Keep", () => { this.asking.hidden = true; this.remove.focus(); });
    const yes = button("Delete", () => this.ask("delete", { key: this.chosen }, (answer) => {
      this.close();
      this.list();
      this.say(`${answer.key} is deleted.`);
    }), { class: "nbflow-danger" });
    this.asking.replaceChildren(element("span", "", {}, `Delete ${this.chosen}${all}? This cannot be undone.`), yes, no);
    this.asking.hidden = false;
    no.focus();
  }

  preview(page) {
    this.page.setAttribute("aria-busy", "true");
    this.ask("preview", { key: this.chosen, version: this.version, page }, (answer) => {
      this.snippet.textContent = answer.snippet;
      this.showPage(answer.page);
    });
  }

  showPage(found) {
    const parts = [];
    if (found.kind === "table") {
      const table = element("table");
      const top = element("tr");
      top.append(...found.columns.map((name) => element("th", "", { scope: "col" }, name)));
      table.append(top, ...found.rows.map((row) => {
        const line = element("tr");
        line.append(...row.map((text) => element("td", "", {}, text)));
        return line;
      }));
      parts.push(table);
    } else if (found.kind === "image") parts.push(element("img", "", { src: `data:image/png;base64,${found.image}`, alt: this.chosen }));
    else parts.push(element("pre", "", {}, found.text));
    const foot = element("div", "nbflow-foot");
    if (found.pages > 1) {
      const back = button("‹", () => this.preview(found.page - 1), { "aria-label": "Previous page" });
      const next = button("›", () => this.preview(found.page + 1), { "aria-label": "Next page" });
      back.disabled = found.page === 0;
      next.disabled = found.page === found.pages - 1;
      foot.append(back, element("span", "", {}, `page ${found.page + 1} of ${found.pages}`), next);
    }
    if (found.total) foot.append(element("span", "nbflow-soft", {}, `${found.total.toLocaleString("en")} rows`));
    if (found.note) foot.append(element("span", "nbflow-soft", {}, found.note));
    const scroll = element("div", "nbflow-scroll");
    scroll.append(...parts);
    this.page.replaceChildren(scroll, ...(foot.childElementCount ? [foot] : []));
    this.page.setAttribute("aria-busy", "false");
  }

  showVersions(versions) {
    this.past.replaceChildren();
    if (versions.length < 2) return;
    const pick = (label, at) => {
      const select = element("select", "", { "aria-label": label });
      versions.forEach((each, place) => {
        const words = [place ? "" : "now", each.age, each.shape, each.size, each.origin].filter(Boolean).join(" · ");
        select.append(element("option", "", { value: each.id, title: each.when }, `${each.id}  ${words}`));
      });
      select.selectedIndex = at;
      return select;
    };
    const shown = pick("Version to show", 0);
    shown.addEventListener("change", () => {
      this.version = shown.selectedIndex ? shown.value : null;
      this.preview(0);
    });
    const other = pick("Version to compare with", 1);
    const lines = element("pre", "nbflow-diff", { "aria-label": "Differences" });
    lines.hidden = true;
    const compare = button("Compare", () => this.ask("diff", { key: this.chosen, old: other.value, new: shown.value }, (answer) => {
      lines.replaceChildren(...(answer.lines.length ? answer.lines : ["no difference"]).map((text) => element("div", "", { "data-mark": text[0] }, text)));
      lines.hidden = false;
    }));
    const row = element("div", "nbflow-row");
    row.append(element("span", "nbflow-soft", {}, "Version"), shown, element("span", "nbflow-soft", {}, "against"), other, compare);
    this.past.append(row, lines);
  }

  end() {
    clearTimeout(this.typed);
    this.freeKeys();
    this.model.off("msg:custom", this.hear);
    this.model.off("comm_live_update", this.lose);
  }
}

export default {
  initialize: ({ model }) => keepHearing(model),
  render({ model, el }) {
    const browser = new Browser(model);
    el.append(browser.root);
    return () => browser.end();
  },
};
