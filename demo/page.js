() => {
    // Ctrl+Enter generates and Esc stops, on the tab in view.
    document.addEventListener("keydown", (event) => {
        const generates = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (!generates && event.key !== "Escape") return;
        const buttons = document.querySelectorAll(generates ? ".generate" : ".stop");
        [...buttons].find((button) => button.offsetParent && !button.disabled)?.click();
    });

    // A slider moved by a key is let go when the key is; Gradio hears of that only from a pointer.
    const moves = ["Arrow", "Page", "Home", "End"];
    document.addEventListener("keyup", (event) => {
        if (!event.target.matches?.("input[type=range]")) return;
        if (!moves.some((key) => event.key.startsWith(key))) return;
        event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    });

    // A picture made here, dropped anywhere on the page, is given to the tab in view.
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const show = (shown) => document.body.classList.toggle("dropping", shown);
    document.addEventListener("dragover", (event) => {
        if (!files(event)) return;
        event.preventDefault();
        show(true);
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget ?? show(false));
    document.addEventListener("drop", (event) => {
        if (!files(event)) return;
        event.preventDefault();
        show(false);
        const buttons = [...document.querySelectorAll(".restore")];
        const button = buttons.find((button) => button.offsetParent) ?? buttons[0];
        const file = event.dataTransfer.files[0];
        if (!button || !file) return;
        const input = button.previousElementSibling;
        const first = new DataTransfer();
        first.items.add(file);
        input.files = first.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }, true);
}
