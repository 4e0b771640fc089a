/* What the panel is made of: icons, durations in words, elements. The first of the files that make its script. */

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

/* For what is only guessed. */
function roughly(seconds) {
  return seconds < 59.5 ? `${Math.round(seconds)} s` : duration(seconds);
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
