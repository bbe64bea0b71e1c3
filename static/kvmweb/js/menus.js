// Popover menus: placed beside their button, moved through with the arrow keys.
//   <button popovertarget="id">                 opens the menu that is in the page
//   <button data-menu="id" data-menu-url="…">   fills the menu of this id first (one menu, many rows)
import { getFragment } from "./http.js";

let lent = null; // the button that the shared menu was opened from

async function fill(button) {
  const menu = document.getElementById(button.dataset.menu);
  const again = lent === button && menu.matches(":popover-open");
  menu.hidePopover();
  if (again) return;
  const response = await getFragment(button.dataset.menuUrl);
  if (!response.ok) return;
  menu.innerHTML = await response.text();
  lent = button;
  menu.showPopover();
}

const MARGIN = 6;

function place(menu, button) {
  const anchor = button.getBoundingClientRect();
  const box = menu.getBoundingClientRect();
  const rightAligned = anchor.left + box.width > innerWidth - MARGIN;
  const left = rightAligned ? anchor.right - box.width : anchor.left;
  const below = anchor.bottom + MARGIN + box.height <= innerHeight;
  const top = below ? anchor.bottom + 4 : anchor.top - box.height - 4;
  menu.style.left = `${Math.max(MARGIN, Math.min(left, innerWidth - box.width - MARGIN))}px`;
  menu.style.top = `${Math.max(MARGIN, Math.min(top, innerHeight - box.height - MARGIN))}px`;
}

function buttonOf(menu) {
  if (lent?.dataset.menu === menu.id) return lent;
  const shown = [...document.querySelectorAll(`[popovertarget="${CSS.escape(menu.id)}"]`)];
  return shown.find((button) => button.offsetParent !== null) ?? shown[0];
}

document.addEventListener(
  "toggle",
  (event) => {
    const menu = event.target;
    if (!(menu instanceof HTMLElement) || !menu.matches(".menu[popover]")) return;
    const button = buttonOf(menu);
    const open = event.newState === "open";
    button?.setAttribute("aria-expanded", String(open));
    if (!open && lent?.dataset.menu === menu.id) {
      if (menu.contains(document.activeElement)) lent.focus();
      lent = null;
    }
    if (!open || !button) return;
    place(menu, button);
    if (button.matches(":focus-visible")) menu.querySelector(".menu-item")?.focus();
  },
  true,
);

// Also what stands in a menu's list, like "Hand over" beside a person.
const STOPS = ".menu-item, li button";

document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.(".menu[popover]");
  if (!menu || !["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
  const items = [...menu.querySelectorAll(STOPS)];
  const at = items.indexOf(document.activeElement);
  const goal = {
    ArrowDown: (at + 1) % items.length,
    ArrowUp: (at - 1 + items.length) % items.length,
    Home: 0,
    End: items.length - 1,
  }[event.key];
  event.preventDefault();
  items[goal]?.focus();
});

// Before the browser's own light dismiss: a second press on the button closes its menu.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-menu]");
  if (button) fill(button);
});

// A chosen item closes its menu; one that cannot be chosen stays to be read.
document.addEventListener("click", (event) => {
  const item = event.target.closest?.(".menu[popover] .menu-item, .console-people-menu li button");
  if (!item) return;
  if (item.getAttribute("aria-disabled") === "true") {
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  item.closest(".menu").hidePopover?.();
});
