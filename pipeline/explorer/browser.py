"""What happens in the browser alone: keys, the colors of the system, the narrow screen, messages above the page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import ClassVar

import panel as pn
from bokeh.document import Document
from bokeh.events import ConnectionLost
from bokeh.models import CustomJS

KEYS = ("+", "-", "0", "n", "p", "1", "2", "3", "Escape", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
"""Keys that are sent to the server. `/` and `d` are handled in the browser."""

HELP = (
    "**Keys**: `/` find, `+` `-` `0` zoom, Shift with arrows moves the map, `n` `p` next and previous spectrum of the "
    "list, `1` `2` `3` lists, `Esc` nothing selected, `d` dark or light, which loads the page again, without its lists"
)

ENDED = (
    "The explorer has ended, or cannot be reached any more. Reload this page, or run "
    "<code>spender-pipeline explore</code> again."
)
"""What a page says whose server does not answer, as HTML."""

_NOTICE = {"background": "#ffe0a3", "color": "#222", "padding": "10px 14px", "border-radius": "4px"}
_ABOVE = {"position": "fixed", "right": "16px", "bottom": "16px", "z-index": "2000", "max-width": "min(560px, 92vw)"}


class Browser(pn.custom.JSComponent):  # type: ignore[misc]
    """Sends keys that are pressed outside of fields.

    The page follows the system from light to dark, until `d` is pressed; on a narrow screen its sidebar begins closed.
    """

    _esm: ClassVar[str] = """
    const keys = new Set(%s)

    function inside(root, selector) {
      for (const each of root.querySelectorAll("*")) {
        if (each.matches(selector)) return each
        const found = each.shadowRoot && inside(each.shadowRoot, selector)
        if (found) return found
      }
      return null
    }

    function paint(theme) {
      const url = new URL(window.location)
      url.searchParams.set("theme", theme)
      window.location.replace(url)
    }

    export function render({model}) {
      const theme = new URL(window.location).searchParams.get("theme")
      if (!theme && window.matchMedia("(prefers-color-scheme: dark)").matches) paint("dark")
      if (window.innerWidth < 800) document.getElementById("sidebar").classList.remove("show")
      window.addEventListener("popstate", () => window.location.reload())  // the address says what there was
      document.addEventListener("keydown", (event) => {
        const at = event.composedPath()[0]
        if (event.ctrlKey || event.metaKey || event.altKey) return
        if (at.matches && at.matches("input, select, textarea")) {
          if (event.key === "Escape" || event.key === "Enter") at.blur()  // keys are the page's again
          return
        }
        const arrow = event.key.startsWith("Arrow")
        if (event.key === "/") inside(document, "input[placeholder^='id, or']").focus()
        else if (event.key === "d") paint(theme === "dark" ? "default" : "dark")
        else if (keys.has(event.key) && arrow === (arrow && event.shiftKey)) model.send_msg(event.key)
        else return
        event.preventDefault()
      })
      return document.createElement("span")
    }
    """ % list(KEYS)  # noqa: UP031 - braces are the script's

    def __init__(self, pressed: Callable[[str], None]) -> None:
        super().__init__(width=1, height=1, margin=0)
        self.on_msg(lambda event: pressed(str(event.data)))


class Message(pn.Row):  # type: ignore[misc]
    """A message above the page, wherever it is scrolled to; it moves nothing, and can be closed."""

    def __init__(self) -> None:
        self._text = pn.pane.HTML("", margin=0, styles=_NOTICE)
        close = pn.widgets.Button(label="\u00d7", align="center", on_click=lambda _: self.say(""))
        super().__init__(self._text, close, visible=False, styles=_ABOVE)

    def say(self, text: str) -> None:
        """Show a message, "" for none."""
        self._text.object, self.visible = escape(text), bool(text)


def say_when_lost(document: Document) -> None:
    """Make a page say when its server has gone: nothing on it does anything then."""
    code = """
    const message = document.createElement("div")
    message.innerHTML = said
    message.style = "position:fixed;inset:0 0 auto 0;z-index:3000;padding:12px;text-align:center;" +
      "background:#ffe0a3;color:#222"
    document.body.append(message)
    """
    document.js_on_event(ConnectionLost, CustomJS(args={"said": ENDED}, code=code))
