// <button data-copy="text">: copies and says so for a moment.
import { showToast } from "./toasts.js";
import { word } from "./words.js";

const SAID_MS = 1800;

// Over plain http there is no clipboard API: a selection and the old command do it.
function copyByHand(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  const host = document.querySelector("dialog[open]") ?? document.body;
  host.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyByHand(text);
    }
  }
  return copyByHand(text);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const source = button.dataset.copyFrom ? document.querySelector(button.dataset.copyFrom) : null;
  const text = source ? (source.value ?? source.innerText) : button.dataset.copy;
  if (!(await copyText(text))) {
    showToast({ text: word("noCopy"), tone: "warn" });
    return;
  }
  button.classList.add("copied");
  const said = button.querySelector("[data-copied]");
  if (said) said.hidden = false;
  button.focus({ preventScroll: true });
  const announce = document.getElementById("announce");
  if (announce) announce.textContent = word("copied");
  setTimeout(() => {
    button.classList.remove("copied");
    if (said) said.hidden = true;
    if (announce) announce.textContent = "";
  }, SAID_MS);
});
