() => {
    const inView = (selector) =>
        [...document.querySelectorAll(selector)].find((element) => element.offsetParent);

    // Ctrl+Enter generates and Esc stops, on the tab in view.
    document.addEventListener("keydown", (event) => {
        const generates = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (!generates && event.key !== "Escape") return;
        const buttons = document.querySelectorAll(generates ? ".generate" : ".stop");
        [...buttons].find((button) => button.offsetParent && !button.disabled)?.click();
    });

    // Of Generate and Stop, one is disabled, and a disabled button loses the focus to the page's
    // beginning: what had it hands it to the other, unless the person has moved on.
    let focused = null;
    document.addEventListener("focusin", (event) => (focused = event.target));
    document.addEventListener("pointerdown", (event) => {
        if (!focused?.contains(event.target)) focused = null;
    }, true);
    const handOver = (records) => {
        for (const { target } of records) {
            const isOther = target.matches(".stop") ? ".generate" : ".stop";
            const other = target.closest(".run")?.querySelector(isOther);
            const isLost = [target, document.body].includes(document.activeElement);
            if (!target.disabled || focused !== target || !isLost || !other) continue;
            const take = () => !other.disabled && other.focus({ preventScroll: true });
            if (take() === false) requestAnimationFrame(take);
        }
    };
    const handingOver = new MutationObserver(handOver);
    // Held down, Enter would stop at once what it has just begun.
    document.addEventListener("keydown", (event) => {
        if (event.repeat && event.target.matches?.(".run button")) event.preventDefault();
    }, true);

    // A number does something when a person changed it and let it go: a slider by a pointer or a
    // key, a box by Enter or by leaving it. Gradio takes every click for that, and every leaving of
    // a box, whether anything was changed or not, and an emptied box for nought.
    const acted = new WeakMap(); // what each said when something was last done with it
    const edited = new WeakSet();
    const isNumber = ({ type }) => ["range", "number"].includes(type);
    const arrive = ({ target }) => {
        if (isNumber(target) && !edited.has(target)) acted.set(target, target.value);
    };
    for (const type of ["pointerdown", "keydown", "beforeinput"]) {
        document.addEventListener(type, arrive, true);
    }
    document.addEventListener("input", (event) => {
        if (event.isTrusted && isNumber(event.target)) edited.add(event.target);
    }, true);
    const write = (input, value) => {
        input.value = value;
        input.dispatchEvent(new Event("input", { bubbles: true }));
    };
    const settle = (input) => {
        if (!edited.delete(input)) return;
        const before = acted.get(input) ?? "";
        if (input.value === "") return write(input, before);
        const { value, min, max } = input;
        if (min !== "" && Number(value) < Number(min)) write(input, min);
        if (max !== "" && Number(value) > Number(max)) write(input, max);
        if (value !== input.value) say(`${value} is not from ${min} to ${max}: now ${input.value}.`);
        if (input.value === before) return;
        noteTexts();
        acted.set(input, input.value);
        input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    };
    let pressed = ["", null];
    document.addEventListener("pointerdown", ({ target }) => (pressed = [target.value, target]), true);
    document.addEventListener("pointerup", (event) => {
        if (!event.isTrusted || !isNumber(event.target)) return;
        event.stopPropagation();
        const [value, target] = pressed;
        if (target !== event.target || value !== target.value) settle(event.target);
    }, true);
    document.addEventListener("blur", (event) => {
        if (event.target.type !== "number") return;
        // Gradio's slider would act on whatever is there.
        if (event.target.matches("[data-testid=number-input]")) event.stopPropagation();
        settle(event.target);
    }, true);
    const moves = { range: ["Arrow", "Page", "Home", "End"], number: ["ArrowUp", "ArrowDown"] };
    document.addEventListener("keyup", ({ target, key }) => {
        if (moves[target.type]?.some((move) => key.startsWith(move))) settle(target);
    });
    document.addEventListener("keydown", ({ target, key, ctrlKey, metaKey }) => {
        if (key === "Enter" && !ctrlKey && !metaKey && target.type === "number") settle(target);
    });

    // Gradio gives every choice its own group, so that each is a stop of Tab. They are one: arrows
    // choose, but of the examples, which are pressed rather than chosen.
    const choices = (fieldset) => [...fieldset.querySelectorAll("input[type=radio]")];
    const group = (fieldset) => {
        const all = choices(fieldset);
        const stop = all.find((its) => its.checked) ?? all[0];
        for (const choice of all) choice.tabIndex = choice === stop ? 0 : -1;
    };
    document.addEventListener("keydown", (event) => {
        const fieldset = event.target.type === "radio" && event.target.closest("fieldset");
        const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
        if (!fieldset || !(event.key in steps)) return;
        event.preventDefault();
        const all = choices(fieldset);
        const to = all.at((all.indexOf(event.target) + steps[event.key]) % all.length);
        to.focus();
        if (!fieldset.matches(".examples")) to.click();
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
    // The texts that something was last made of: what is written back to them makes nothing new.
    const noteTexts = (boxes = document.querySelectorAll(".workbench textarea")) =>
        boxes.forEach((box) => (box.dataset.acted = box.value));
    document.addEventListener("focusin", ({ target }) => {
        if (target.matches("textarea")) noteTexts([target]);
    });
    document.addEventListener("click", ({ target }) => {
        if (target.closest?.(".generate")) noteTexts();
    }, true);

    // What a person who hears the page is told, in a sentence: that sampling starts, what came of
    // it, and what was refused. Gradio's own region says "Loading" and names of its translations.
    const aloud = document.createElement("div");
    aloud.className = "aloud";
    aloud.setAttribute("role", "status");
    document.body.append(aloud);
    const say = (text) => {
        if (!text) return;
        aloud.textContent = "";
        setTimeout(() => (aloud.textContent = text)); // the same sentence again is said again
    };
    const isUnderWay = (state) => ["asked", "waiting", "running"].includes(state);
    const wordsOf = (html) => new DOMParser().parseFromString(html, "text/html")
        .querySelector("[data-said]")?.dataset.said;
    const shown = new Map(); // what the readout of each pane last said, and in which state
    document.addEventListener("state", ({ detail: { pane, state, html } }) => {
        const before = shown.get(pane) ?? { state: "idle", html };
        shown.set(pane, { state, html });
        const [was, is] = [before.state, state].map(isUnderWay);
        // After a refusal, what was there is there still: it is no result of what was refused.
        const ends = was && !is && state !== "refused";
        const isNew = html !== before.html || ends;
        const starts = isNew ? before.state === "waiting" && state === "running" : is && !was;
        say(starts ? "Sampling." : isNew && wordsOf(html));
    });

    // What Gradio leaves out, wherever it comes to be: a tab is built when it is first opened.
    const keys = { ".generate": "Control+Enter", ".stop": "Escape" };
    const mend = () => {
        for (const [buttons, key] of Object.entries(keys)) {
            document.querySelectorAll(`${buttons}:not([aria-keyshortcuts])`).forEach((button) => {
                button.setAttribute("aria-keyshortcuts", key);
                button.title = key.replace("Control", "Ctrl");
                handingOver.observe(button, { attributeFilter: ["disabled"] });
            });
        }
        document.querySelectorAll("fieldset:has(input[type=radio])").forEach(group);
        // A message is said once, and by its words alone.
        document.querySelectorAll("[data-testid=toast-body][role=status]").forEach((toast) => {
            toast.setAttribute("role", "group");
            toast.setAttribute("aria-live", "off");
        });
        document.querySelectorAll("[data-testid=toast-text]:not([data-heard])").forEach((text) => {
            text.dataset.heard = "";
            say(text.textContent);
        });
        // On a narrow page, the pictures say what the readout does.
        document.querySelectorAll(".workbench:not(.compare)").forEach((bench) => {
            const said = bench.querySelector(".readout .headline")?.textContent.trim() ?? "";
            const gallery = bench.querySelector(".gallery");
            if (gallery && gallery.dataset.headline !== said) gallery.dataset.headline = said;
        });
    };
    let isMending = false;
    new MutationObserver(() => {
        if (isMending) return;
        isMending = true;
        setTimeout(() => {
            isMending = false;
            mend();
        });
    }).observe(document.body, { childList: true, subtree: true });
    mend();

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
        const done = settings.match(/"task": "(\w+)"/)?.[1] ?? "generate"; // the first did not say
        const [, , tab] = TAKERS.find(([task, things]) =>
            task === done && settings.includes(`"${things}": [`)) ?? [];
        const takers = tab ? `.restore.of-${tab}` : ".restore";
        if (!inView(takers)) {
            document.querySelector(`[data-tab-id=${tab ?? TAKERS[0][2]}]`)?.click();
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
