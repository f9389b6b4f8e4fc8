"""The page as it is put together: without torch, and on a service that only pretends."""

import subprocess
import sys
from pathlib import Path

import gradio as gr

from demo import ui
from tests.demo.fakes import FakeService

ROOT = Path(__file__).parents[2]


def test_a_page_is_described_without_torch():
    program = (
        "import concurrent.futures, sys\n"
        "from demo import ui\n"
        "from demo.service.accelerator import Accelerator\n"
        "from demo.service.studio import load_services\n"
        "Accelerator.submit = lambda self, work: concurrent.futures.Future()\n"
        "ui.build(*load_services()); print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "False\n", ended.stderr


def test_the_page_stands_on_a_fake():
    page = ui.build(FakeService())
    public = [fn for fn in page.fns.values() if fn.api_visibility == "public"]
    assert [fn.api_name for fn in public] == [
        "generate_class_conditional", "edit_image_of_class", "inpaint_image_of_class",
        "compare_plans",
    ]  # fmt: skip
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in public} == {("gpu", 1)}
    html = [b.value for b in page.blocks.values() if isinstance(b, gr.HTML)]
    assert any("&lt;fake&gt; on paper, ink" in text for text in html if isinstance(text, str))
    tabs = [b.label for b in page.blocks.values() if isinstance(b, gr.Tab)]
    assert tabs == ["Class-conditional", "Edit", "Inpaint", "Compare", "About"]
