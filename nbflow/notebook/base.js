/* What the scripts of all widgets begin with. */

const OWN_KEYS = new Set([
  "Enter", " ", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Delete", "Escape",
]);

/* Keep the notebook's shortcuts from the keys that a widget needs: all of them in a field or if it wants all, else those
   that move, press and close. Shift+Enter, and what is pressed with Ctrl, Cmd or Alt, stay the notebook's. It looks for
   its shortcuts while a key goes down to the widget (Notebook 7) or on its way up (JupyterLab), and passes by a target
   that carries this attribute. Returns what ends that. */
function keepKeys(root, all = false) {
  const mark = (event) => {
    if (event.target === root || !root.contains(event.target)) return;
    const field = event.target.matches("textarea, select, input:not([type=range], [type=checkbox])");
    const own = (all || field || OWN_KEYS.has(event.key)) && !(event.key === "Enter" && event.shiftKey);
    event.target.toggleAttribute("data-lm-suppress-shortcuts", own && !event.ctrlKey && !event.metaKey && !event.altKey);
  };
  window.addEventListener("keydown", mark, true);
  return () => window.removeEventListener("keydown", mark, true);
}

/* Hear the kernel even if this page was busy for the two seconds after which anywidget gives a model up: it is drawn all
   the same, but no message gets past anywidget any more, so that the widget would stand still. So messages go to what
   anywidget would hand them to, the class that its own extends. Other front ends than Jupyter's may lack any of this. */
async function keepHearing(model) {
  const found = await model.widget_manager?.get_model?.(model.get("ident"));
  let kind = found && Object.getPrototypeOf(found);
  while (kind && !Object.hasOwn(kind, "_handle_comm_msg")) kind = Object.getPrototypeOf(kind);
  const handle = kind && Object.getPrototypeOf(kind)._handle_comm_msg;
  if (handle && found.comm?.on_msg) found.comm.on_msg((message) => handle.call(found, message));
}
