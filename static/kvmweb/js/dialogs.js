// <button data-dialog="/url?part=..."> opens that fragment in the page's one modal dialog;
// <button data-open-dialog="id"> opens a dialog that is in the page; data-close closes it.
// A native modal <dialog> traps focus and gives it back.
import { errorOf, getFragment } from "./http.js";
import { showError } from "./toasts.js";

async function openFrom(url) {
  const dialog = document.getElementById("dialog");
  const response = await getFragment(url);
  if (!response.ok) {
    showError(await errorOf(response));
    return;
  }
  dialog.innerHTML = await response.text();
  window.htmx.process(dialog);
  const title = dialog.querySelector("h2");
  if (title) {
    title.id ||= "dialog-title";
    dialog.setAttribute("aria-labelledby", title.id);
  }
  dialog.showModal();
  dialog.querySelector("[autofocus]")?.focus();
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest?.("[data-dialog]");
  if (opener && opener.getAttribute("aria-disabled") !== "true") {
    event.preventDefault();
    openFrom(opener.dataset.dialog);
    return;
  }
  const inPage = event.target.closest?.("[data-open-dialog]");
  if (inPage) {
    event.preventDefault();
    document.getElementById(inPage.dataset.openDialog)?.showModal();
    return;
  }
  if (event.target.closest?.("[data-close]")) event.target.closest("dialog")?.close();
  else if (event.target instanceof HTMLDialogElement && event.target.open) {
    // a click on the veil, not on what is inside
    const box = event.target.getBoundingClientRect();
    const inside =
      event.clientX >= box.left &&
      event.clientX <= box.right &&
      event.clientY >= box.top &&
      event.clientY <= box.bottom;
    if (!inside && event.detail > 0) event.target.close();
  }
});

// Delete asks for the name while the machine runs: the button waits for it.
document.addEventListener("input", (event) => {
  const expected = event.target.dataset?.mustEqual;
  if (expected === undefined) return;
  const button = event.target.form?.querySelector("[data-needs-name]");
  if (button) button.disabled = event.target.value.trim() !== expected;
});
