() => {
    // Ctrl+Enter generates and Esc stops, on the tab in view.
    document.addEventListener("keydown", (event) => {
        const generates = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (!generates && event.key !== "Escape") return;
        const buttons = document.querySelectorAll(generates ? ".generate" : ".stop");
        [...buttons].find((button) => button.offsetParent && !button.disabled)?.click();
    });

    // A slider moved by a key is let go when the key is, and its box when a number was typed into
    // it, by Enter or by leaving it. Gradio hears of that only from a pointer, and takes every
    // click for it, whether anything changed or not.
    const began = new WeakMap();
    const begin = (event) => began.set(event.target, event.target.value);
    const letGo = (input) => {
        began.set(input, input.value);
        input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    };
    for (const [type, kind] of [["pointerdown", "range"], ["focusin", "number"]]) {
        document.addEventListener(type, (event) => event.target.type === kind && begin(event), true);
    }
    document.addEventListener("pointerup", (event) => {
        if (!event.isTrusted || !["range", "number"].includes(event.target.type)) return;
        if (event.target.value === began.get(event.target)) event.stopPropagation();
        else begin(event);
    }, true);
    const moves = ["Arrow", "Page", "Home", "End"];
    document.addEventListener("keyup", (event) => {
        if (!event.target.matches?.("input[type=range]")) return;
        if (moves.some((key) => event.key.startsWith(key))) letGo(event.target);
    });
    document.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
        if (event.target.matches?.("input[type=number]")) event.target.blur();
    });
    document.addEventListener("change", (event) => {
        const input = event.target;
        if (!input.matches?.("input[type=number]") || input.value === began.get(input)) return;
        setTimeout(() => letGo(input)); // once Gradio has brought it within its limits
    });

    // Gradio hears of what is written only from keys that write a letter: not of what is deleted,
    // pasted or dictated.
    let isKey = false;
    document.addEventListener("keypress", (event) => {
        isKey = event.isTrusted;
        setTimeout(() => (isKey = false)); // what a key writes, it writes at once; some write nothing
    }, true);
    document.addEventListener("input", (event) => {
        if (!event.target.matches?.("textarea") || isKey) return;
        event.target.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true }));
    });

    // A picture made here, dropped anywhere on the page, is given to the tab that makes such ones,
    // which is then opened; what is none, to the tab in view, which says so.
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const show = (shown) => document.body.classList.toggle("dropping", shown);
    document.addEventListener("dragover", (event) => {
        if (!files(event)) return;
        event.preventDefault();
        show(true);
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget ?? show(false));
    document.addEventListener("drop", async (event) => {
        if (!files(event)) return;
        event.preventDefault();
        show(false);
        const file = event.dataTransfer.files[0];
        if (!file) return;
        // The settings come before the picture itself.
        const settings = await file.slice(0, 100000).text();
        const tabs = { class_names: "class-conditional", prompts: "text-to-image" };
        const things = Object.keys(tabs).find((name) => settings.includes(`"${name}": [`));
        const inView = (takers) =>
            [...document.querySelectorAll(takers)].find((button) => button.offsetParent);
        const takers = things ? `.restore.of-${things}` : ".restore";
        if (!inView(takers)) {
            document.querySelector(`[data-tab-id=${tabs[things ?? "class_names"]}]`)?.click();
        }
        // A tab is built when it is first opened.
        for (let waits = 0; waits < 60 && !inView(takers); waits++) {
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        const button = inView(takers) ?? inView(".restore");
        if (!button) return;
        const input = button.previousElementSibling;
        const first = new DataTransfer();
        // By another name, Gradio would refuse what is no PNG without a word.
        first.items.add(new File([file], file.name.replace(/(\.png)?$/i, ".png")));
        input.files = first.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }, true);

    // The server keeps pictures for a while only. A page that was left open says so when one comes
    // back to it, or presses what would fetch one, and downloads nothing in their stead.
    const removed = (button) => "These pictures were removed: they are kept KEPT. Press "
        + `${button.innerText}, with the same seed, to make them again.`;
    const notice = (bench) => bench.querySelector(".removed");
    const lookAfter = async (bench) => {
        const picture = bench.querySelector(".gallery img[src*='/file=']");
        if (!picture) return true;
        const answer = await fetch(picture.src, { method: "HEAD", cache: "no-store" }).catch(() => null);
        const isGone = answer !== null && answer.status === 403; // as Gradio says of no file
        if (!isGone) notice(bench)?.remove();
        else if (!notice(bench)) {
            const text = document.createElement("p");
            const textContent = removed(bench.querySelector(".generate"));
            Object.assign(text, { className: "hint removed", role: "status", textContent });
            bench.querySelector(".gallery").before(text);
        }
        return !isGone;
    };
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden) document.querySelectorAll(".workbench").forEach(lookAfter);
    });
    for (const type of ["load", "error"]) { // of a picture
        document.addEventListener(type, (event) => {
            const bench = event.target.matches?.(".gallery img") && event.target.closest(".workbench");
            if (bench && type === "load") notice(bench)?.remove();
            if (bench && type === "error") lookAfter(bench);
        }, true);
    }
    let lookedAfter = null;
    document.addEventListener("click", async (event) => {
        const button = event.target.closest?.(".archive, .gallery [aria-label=Download]");
        if (!button || button.disabled || button === lookedAfter) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        if (!(await lookAfter(button.closest(".workbench")))) return;
        lookedAfter = button;
        button.click();
        lookedAfter = null;
    }, true);
}
