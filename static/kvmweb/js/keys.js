// Keyboard: / search, c create, g then m/d/a/i go, ? the list of keys, Ctrl or Cmd K jump.
const GO_MS = 1200;
let waitingForGo = 0;

function typing(target) {
  return target.closest?.('input:not([type="checkbox"], [type="radio"]), textarea, select, [contenteditable], canvas, .xterm');
}

function follow(key) {
  const link = document.querySelector(`[data-key="${key}"]`);
  if (!link) return false;
  link.click();
  return true;
}

function openJump() {
  const dialog = document.getElementById("jump");
  if (!dialog || dialog.open) return;
  dialog.showModal();
  const input = dialog.querySelector("input");
  input.select();
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
    if (event.target.closest?.("canvas, .xterm")) return; // the guest's own key
    event.preventDefault();
    openJump();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const now = Date.now();
  if (waitingForGo > now) {
    waitingForGo = 0;
    if (follow(`g ${event.key}`)) event.preventDefault();
    return;
  }
  if (event.key === "g") waitingForGo = now + GO_MS;
  else if (event.key === "/") {
    event.preventDefault();
    const search = document.querySelector("[data-search]");
    if (search) search.focus();
    else openJump();
  } else if (event.key === "?") {
    event.preventDefault();
    document.getElementById("keys")?.showModal();
  } else if (event.key === "c" && follow("c")) event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-jump]")) openJump();
});

// In the jump dialog: arrows choose, Enter goes.
document.getElementById("jump")?.addEventListener("keydown", (event) => {
  if (!["ArrowDown", "ArrowUp", "Enter"].includes(event.key)) return;
  const items = [...event.currentTarget.querySelectorAll("a.menu-item")];
  const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  event.preventDefault();
  if (event.key === "Enter") {
    (items[at] ?? items[0])?.click();
    return;
  }
  const step = event.key === "ArrowDown" ? 1 : -1;
  const goal = items[(at + step + items.length) % items.length];
  for (const item of items) item.setAttribute("aria-selected", String(item === goal));
  goal?.scrollIntoView({ block: "nearest" });
  event.currentTarget.querySelector("input").setAttribute("aria-activedescendant", goal?.id ?? "");
});
