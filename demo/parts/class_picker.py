"""Choosing classes by their pictures: a component of one button a class, with a search."""

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from flowturbo_core.models.catalog import ClassPictures

# `names` are escaped already. Only what changes is in the template: Gradio compares it with what
# is on the page, and touches nothing else, so that the search keeps its text and its focus. What
# does not change is written into both: Gradio loses a component's own properties where an event
# leaves it as it is before its tab was ever opened.
_TEMPLATE = """
${((names, keys, columns, rows, query, current) => `
<div class="picker">
<div class="picker-head">
    <h2>Classes</h2>
    <span class="count" aria-live="polite">${value.length} chosen</span>
    <button type="button" data-choose="all">One of each</button>
    <button type="button" data-choose="none">None</button>
</div>
<input type="search" placeholder="Search ${names.length} classes" aria-label="Search classes">
<div class="tiles" role="group" aria-label="Classes" aria-description="Arrows move between them">
${names.map((name, k) => `
    <button type="button" class="tile" data-label="${k}" aria-pressed="${value.includes(keys[k])}"
        tabindex="${k === current ? 0 : -1}"
        ${keys[k].toLowerCase().includes(query) ? "" : "hidden"}>
        ${rows ? `<i style="background-position: ${columns > 1 ? 100 * (k % columns) / (columns - 1)
            : 0}% ${rows > 1 ? 100 * Math.floor(k / columns) / (rows - 1) : 0}%"></i>` : ""}
        <span>${name}</span>
    </button>`).join("")}
</div>
${keys.some((key) => key.toLowerCase().includes(query)) ? "" : "<p>No class is called so.</p>"}
</div>
`)(NAMES, KEYS, COLUMNS, ROWS, typeof query === "undefined" ? "" : query,
    typeof current === "undefined" ? 0 : current)}
"""
_SCRIPT = """
const keys = KEYS;
element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { choose, label } = button.dataset;
    if (choose) {
        props.value = choose === "all" ? [...keys] : [];
    } else {
        const name = keys[label];
        props.value = props.value.includes(name)
            ? props.value.filter((chosen) => chosen !== name) : [...props.value, name];
    }
});
const tiles = () => [...element.querySelectorAll(".tile:not([hidden])")];
element.addEventListener("input", (event) => {
    props.query = event.target.value.trim().toLowerCase();
    const found = keys.map((key) => key.toLowerCase().includes(props.query));
    if (!found[props.current ?? 0]) props.current = Math.max(found.indexOf(true), 0);
});
// The classes are one stop of Tab, however many there are.
element.addEventListener("focusin", (event) => {
    const { label } = event.target.closest(".tile")?.dataset ?? {};
    if (label !== undefined) props.current = Number(label);
});
element.addEventListener("keydown", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const all = tiles(), here = all.indexOf(tile);
    const columns = all.filter((its) => its.offsetTop === all[0].offsetTop).length;
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, ArrowUp: here - columns,
        ArrowDown: here + columns, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[to]?.focus();
});
"""


class ClassPicker(gr.HTML):
    """One button a class, with its picture where there is one; the value is the chosen names.

    Args:
        class_names: the names, label 0 first.
        pictures: a picture of each class, all in one file.
        value: the names that are chosen at first.
        options: of any of Gradio's components.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        pictures: ClassPictures | None,
        value: Sequence[str] = (),
        **options: Any,
    ):
        written = {
            "NAMES": [escape(name) for name in class_names],
            "KEYS": list(class_names),
            "COLUMNS": pictures.columns if pictures else 0,
            "ROWS": pictures.rows if pictures else 0,
        }
        super().__init__(
            list(value),
            label="Classes",
            html_template=_write(_TEMPLATE, written),
            css_template=_sheet_rule(pictures),
            js_on_load=_write(_SCRIPT, written),
            apply_default_css=False,
            elem_classes="classes",
            query="",
            current=0,
            **options,
        )


def _write(script: str, values: dict[str, Any]) -> str:
    """Return a script with values in place of their names, as text that no template can misread."""
    found = re.compile("|".join(values))
    return found.sub(lambda name: re.sub("[{}`$<]", _escape, json.dumps(values[name[0]])), script)


def _escape(character: re.Match) -> str:
    return f"\\u{ord(character[0]):04x}"


def _sheet_rule(pictures: ClassPictures | None) -> str:
    """Return the style that shows the file of all pictures, held whole, in each button."""
    if pictures is None:
        return ""
    content = base64.b64encode(pictures.file.read_bytes()).decode()
    return (
        f".tile i {{ background-image: url(data:image/webp;base64,{content}); "
        f"background-size: {100 * pictures.columns}% {100 * pictures.rows}%; }}"
    )
