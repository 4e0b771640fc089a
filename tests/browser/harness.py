"""A real JupyterLab and Notebook 7 in a headless Chromium, for tests of what a person sees and clicks.

`Lab` starts a server on the loopback address with a random port, a random token and throw-away folders, and opens
notebooks in the system's Chromium through playwright; `Page` runs cells, reads outputs, clicks and takes pictures.
JupyterLab is loaded once and shows one notebook after the other. Everything that was started is ended by its process
id, and nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import nbformat
from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A fresh Lab would ask about news, and would keep cells that are out of sight out of the page.
QUIET = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
# What a stock server writes to the console, which says nothing about a notebook: two lines are what is left of one that
# was closed while its kernel started, and the last is anywidget's in a page that was busy, whose widgets go on all the
# same (`test_a_widget_of_a_page_that_was_busy_goes_on`).
NOISE = re.compile(
    r"favicon|status of 404|Failed to load resource|ResizeObserver loop|React DevTools|lsp|GPU stall"
    r"|was preloaded using link preload|reading 'schema'|Command '[^']+' not registered"
    r"|^Disposed$|^WebSocket connection to '[^']*/api/kernels/[^']*' failed: .* 404$"
    r"|^\[anywidget\] Failed to initialize model\.$"
)
# What a front end says about a widget that it cannot show.
DEAD_WIDGET = re.compile(
    r"Error displaying widget|Error creating widget|model not found|Could not create a (?:model|view)"
    r"|Failed to load (?:model|view) class|Loading widget"
)
# The page does nothing else for 2.5 s once it begins to load the next script of a widget.
_BUSY = """() => {
    window.wasBusy = false;
    const make = URL.createObjectURL;
    URL.createObjectURL = (blob) => {
        URL.createObjectURL = make;
        for (const until = performance.now() + 2500; performance.now() < until;);
        window.wasBusy = true;
        return make.call(URL, blob);
    };
}"""
_PANEL = """() => {
    const app = window.jupyterapp || window.jupyterlab;
    window.currentNotebook = () => {
        for (const widget of app.shell.widgets('main'))
            if (widget.content && widget.content.widgets && widget.sessionContext) return widget;
        return null;
    };
}"""
_OPEN = """async path => {
    const app = window.jupyterapp || window.jupyterlab;
    const opened = await app.commands.execute('docmanager:open', { path });
    await opened.context.ready;
}"""
# The front end ends the kernels by itself: else it would try to reach them again, while another notebook is shown.
_CLOSE = """async () => {
    for (const button of document.querySelectorAll('.jp-Dialog .jp-mod-reject')) button.click();
    const app = window.jupyterapp || window.jupyterlab;
    for (const widget of [...app.shell.widgets('main')]) {
        if (widget.sessionContext?.session) await widget.sessionContext.shutdown();
        widget.dispose();
    }
}"""
_IDLE = """() => {
    const session = window.currentNotebook()?.sessionContext.session;
    return session?.kernel?.status === 'idle' && (window.running ?? 0) === 0;
}"""
_RUN = """command => {
    const app = window.jupyterapp || window.jupyterlab;
    window.running = (window.running ?? 0) + 1;
    app.commands.execute(command).finally(() => { window.running -= 1; });
}"""

# Contrast of every visible text of a part with what is behind it (WCAG 2.1, 1.4.3), the lowest first.
_CONTRASTS = """selector => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
    const behind = node => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const light = colour => {
        const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const node of document.querySelectorAll(`${selector} *`)) {
        const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
        const idle = node.matches('option, .nbflow-status, .nbflow-small, :disabled');
        if (!own || idle || !node.checkVisibility()) continue;
        const below = behind(node);
        const [a, b] = [light(over(rgba(getComputedStyle(node).color), below)), light(below)];
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className + ': ' + node.textContent]);
    }
    return found.sort((a, b) => a[0] - b[0]);
}"""


class Lab:
    """A running server for both front ends; use it as a context manager, and `fresh` before each test.

    Args:
        folder: Throw-away folder for notebooks and all configuration.
        settings: Further user settings of JupyterLab, by plugin.
        env: Further environment variables of server and kernels.
        kernel_python: Interpreter to run kernels with, for other versions of ipykernel; None for this one.
        start_s: Seconds that server and page may take to come up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        kernel_python: str | None = None,
        start_s: float = 90.0,
    ) -> None:
        self.root = folder / "root"
        self.front = "lab"
        self._top = self.root
        self._folder = folder
        self._scenes = 0
        self._settings = {**QUIET, **(settings or {})}
        self._env = dict(env or {})
        self._kernel_python = kernel_python or sys.executable
        self._start_s = start_s
        self._token = secrets.token_hex(16)
        self._base = ""
        self.foreign: list[str] = []
        self._stack = ExitStack()
        self._loaded: Page | None = None

    def __enter__(self) -> Lab:
        with ExitStack() as stack:
            self.root.mkdir(parents=True)
            self._write_settings(self._settings)
            self._write_kernelspec()
            self._start_server(stack)
            self._context = self._start_browser(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def fresh(self, settings: Mapping[str, Mapping[str, Any]] | None = None, front: str = "lab") -> Lab:
        """Begin anew, with an empty folder as `root`.

        Args:
            settings: Further user settings of this test, by plugin.
            front: Where to open notebooks: "lab" or "notebook".
        """
        self._scenes += 1
        self.front = front
        self.root = self._top / f"scene-{self._scenes}"
        self.root.mkdir()
        wanted = {**QUIET, **(settings or {})}
        if wanted != self._settings:
            self._settings, self._loaded = wanted, None  # they are read when Lab is loaded
            shutil.rmtree(self._folder / "settings", ignore_errors=True)
            self._write_settings(wanted)
        return self

    def clear(self) -> None:
        """Close all notebooks, end all kernels, and close all pages but the one in which Lab is loaded."""
        for page in self._context.pages[1:]:
            if self._loaded is None or page is not self._loaded.page:
                page.close()
        if self._loaded is not None:
            self._loaded.page.evaluate(_CLOSE)
        self.end_kernels()

    def open(self, cells: Sequence[str] | None = None, name: str = "test.ipynb") -> Page:
        """Write a notebook of these code cells (or take the file that is there) and open it.

        With cells, waits for an idle kernel; a file that is only looked at gets none.
        """
        if cells is not None:
            write_notebook(self.root / name, cells)
        page = self._loaded if self.front == "lab" else None
        if page is None:
            page = Page(self, self._context.new_page(), self._start_s)
            page.load(name)
            self._loaded = page if self.front == "lab" else self._loaded
        else:
            page.turn_to(name)
        if cells is not None:
            page.wait_idle(self._start_s)
            page.console.clear()  # nothing of ours ran yet, but Lab may complain of the notebook that it closed before
        return page

    def path(self, name: str) -> str:
        """Return the server's path of a notebook."""
        return (self.root / name).relative_to(self._top).as_posix()

    def url(self, name: str) -> str:
        """Return the address of a notebook in the front end."""
        path = self.path(name)
        if self.front == "notebook":
            return f"{self._base}/notebooks/{path}?token={self._token}"
        return f"{self._base}/doc/tree/{path}?token={self._token}&reset"

    def api(self, method: str, path: str) -> Any:
        """Call the server's REST API and return its decoded answer."""
        request = urllib.request.Request(
            self._base + path, method=method, headers={"Authorization": f"token {self._token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def end_kernels(self) -> None:
        """Shut down all kernels, as closing them by hand would."""
        for session in self.api("GET", "/api/sessions"):
            with suppress(OSError):
                self.api("DELETE", f"/api/sessions/{session['id']}")

    def log(self) -> str:
        """Return what server and kernels wrote so far."""
        return (self._folder / "server.log").read_text(errors="replace")

    def _write_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        for plugin, values in settings.items():
            package, _, name = plugin.partition(":")
            file = self._folder / "settings" / package / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))

    def _write_kernelspec(self) -> None:
        argv = [self._kernel_python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python", "interrupt_mode": "signal"}
        folder = self._folder / "data" / "kernels" / "python3"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(spec))

    def _start_server(self, stack: ExitStack) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._base = f"http://127.0.0.1:{port}"
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        env = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        env |= {name: str(self._folder / folder) for name, folder in folders.items()}
        env.pop("NBFLOW_HOME", None)  # each scene has a home of its own, in its folder: no cache, no times of others
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
        options += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.root}"]
        options += [f"--IdentityProvider.token={self._token}", "--LabApp.expose_app_in_browser=True"]
        options += ["--JupyterNotebookApp.expose_app_in_browser=True"]
        log = stack.enter_context((self._folder / "server.log").open("wb"))
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.root,
            env=env | self._env,
            start_new_session=True,
        )
        stack.callback(self._stop_server, server)

        def answers() -> bool:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended at once:\n{self.log()[-3000:]}")
            try:
                return bool(self.api("GET", "/api/status"))
            except OSError:
                return False

        wait_until(
            answers,
            self._start_s,
            lambda: f"the server did not come up:\n{self.log()[-3000:]}",
            lambda: threading.Event().wait(0.1),
        )

    def _stop_server(self, server: subprocess.Popen[bytes]) -> None:
        with suppress(OSError):
            self.end_kernels()
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(5)

    def _start_browser(self, stack: ExitStack) -> Any:
        browser = stack.enter_context(sync_playwright()).chromium.launch_persistent_context(
            str(self._folder / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            chromium_sandbox=False,
            viewport={"width": 1280, "height": 900},
        )
        stack.callback(browser.close)
        browser.route(lambda address: not address.startswith(self._base), self._refuse)
        return browser

    def _refuse(self, route: Any) -> None:
        """There is no network but this server: whoever asks for more is told to, and noted."""
        self.foreign.append(route.request.url)
        route.abort()


class Page:
    """A notebook as it stands in the browser.

    Attributes:
        page: The playwright page, for whatever has no method here.
        console: Errors that the page wrote to its console, without a stock server's noise.
    """

    def __init__(self, lab: Lab, page: Any, start_s: float) -> None:
        self.lab = lab
        self.page = page
        self.console: list[str] = []
        self._start_s = start_s
        self._name = ""
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)

    def load(self, name: str) -> None:
        """Load the front end with this notebook."""
        self._name = name
        self.page.goto(self.lab.url(name), timeout=self._start_s * 1000)
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=self._start_s * 1000)
        self.page.evaluate(_PANEL)

    def turn_to(self, name: str) -> None:
        """Show this notebook instead, in the front end that is loaded."""
        self._name = name
        self.console.clear()
        self.page.evaluate(_OPEN, self.lab.path(name))
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=self._start_s * 1000)

    def _on_error(self, error: Any) -> None:
        if not NOISE.search(str(error)):
            self.console.append(f"pageerror: {error}")

    def _on_console(self, message: Any) -> None:
        if message.type == "error" and not NOISE.search(message.text):
            self.console.append(message.text)

    # -- doing ------------------------------------------------------------

    def run_all(self) -> None:
        """Start Run > Run All Cells, without waiting."""
        self.page.evaluate(_RUN, "notebook:run-all-cells")

    def run_cell(self, index: int) -> None:
        """Start one cell, counted from 0, without waiting."""
        self.page.evaluate("index => { window.currentNotebook().content.activeCellIndex = index; }", index)
        self.page.evaluate(_RUN, "notebook:run-cell")

    def click(self, label: str, nth: int = 0) -> None:
        """Click the nth button of the outputs that reads exactly `label`."""
        exactly = re.compile(rf"^\s*{re.escape(label)}\s*$")
        self.page.locator(".jp-OutputArea button").filter(has_text=exactly).locator("visible=true").nth(nth).click()

    def tab(self, name: str) -> None:
        """Open a tab of the panel that was shown last."""
        self.page.locator(".nbflow-tabname:visible").filter(has_text=name).last.click()

    def portrait(self, path: Path) -> None:
        """Write a picture of the panel that was shown last."""
        self.page.locator(".nbflow-panel").last.screenshot(path=str(path))

    def theme(self, name: str) -> None:
        """Change to the theme "Light" or "Dark" while the page is open."""
        change = (
            "theme => (window.jupyterapp || window.jupyterlab).commands.execute('apputils:change-theme', { theme })"
        )
        self.page.evaluate(change, f"JupyterLab {name}")
        light = "light => document.body.dataset.jpThemeLight === light"
        self.page.wait_for_function(light, arg=str(name == "Light").lower())
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")  # it covers the page, and fades

    def reload(self) -> None:
        """Load the page anew, as F5 does, and wait for the notebook; the kernel stays."""
        self.load(self._name)

    def save(self) -> Path:
        """Save, and return the file."""
        self.page.evaluate("async () => { await window.currentNotebook().context.save(); }")
        return self.lab.root / Path(self.page.evaluate("() => window.currentNotebook().context.path")).name

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole notebook."""
        height = self.page.evaluate(
            """() => {
            const cells = document.querySelectorAll('.jp-NotebookPanel .jp-Cell');
            const box = document.querySelector('.jp-NotebookPanel .jp-WindowedPanel-outer');
            return Math.ceil(cells[cells.length - 1].getBoundingClientRect().bottom + (box?.scrollTop ?? 0)) + 140;
        }"""
        )
        self.page.set_viewport_size({"width": 1280, "height": max(500, min(height, 8000))})
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=str(path))
        self.page.set_viewport_size({"width": 1280, "height": 900})

    def be_busy(self) -> None:
        """Let the page do nothing else for 2.5 s while it loads the script of the next widget."""
        self.page.evaluate(_BUSY)

    def was_busy(self) -> bool:
        """Return whether it has loaded one in this way since it was last told to."""
        return bool(self.page.evaluate("() => window.wasBusy"))

    # -- waiting ----------------------------------------------------------

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        """Wait until everything that was started has run and the kernel is idle."""
        self.wait(lambda: bool(self.page.evaluate(_IDLE)), timeout_s, "the kernel did not become idle")
        self.page.wait_for_timeout(200)  # the last outputs are still being drawn

    def wait_text(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until an output shows `text`."""
        self.wait(lambda: any(text in shown for shown in self.texts()), timeout_s, f"never shown: {text!r}")

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until `condition` holds, while the browser goes on."""
        wait_until(
            condition,
            timeout_s,
            lambda: f"{what} (after {timeout_s:g} s); outputs: {self.texts()}",
            lambda: self.page.wait_for_timeout(50),
        )

    # -- looking ----------------------------------------------------------

    def texts(self) -> list[str]:
        """Return what a person reads under each cell, widgets included."""
        return self.page.evaluate(
            """() => window.currentNotebook().content.widgets.map(
                cell => cell.node.querySelector('.jp-Cell-outputArea')?.innerText ?? '')"""
        )

    def outputs(self, cell: int) -> list[dict[str, Any]]:
        """Return the outputs of a cell as the front end holds them, in nbformat."""
        text = self.page.evaluate("() => JSON.stringify(window.currentNotebook().content.model.toJSON())")
        return json.loads(text)["cells"][cell].get("outputs", [])

    def contrasts(self, selector: str = ".nbflow-panel") -> list[tuple[float, str]]:
        """Return the contrast of each text in these parts with what is behind it, the lowest first, with the text."""
        return [(ratio, text) for ratio, text in self.page.evaluate(_CONTRASTS, selector)]

    def errors(self) -> list[str]:
        """Return everything that looks broken: console errors, dead widgets, and what was wanted from the network."""
        dead = [found.group(0) for text in self.texts() if (found := DEAD_WIDGET.search(text))]
        return self.console + dead + self.lab.foreign


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook of code cells for the Python 3 kernel."""
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells], metadata=metadata
    )
    nbformat.write(notebook, path)


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    message: Callable[[], str],
    pause: Callable[[], object],
) -> None:
    """Try again until `condition` holds; `AssertionError` with `message()` after `timeout_s` seconds."""
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise AssertionError(message())
        pause()
