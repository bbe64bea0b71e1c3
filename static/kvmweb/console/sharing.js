// <form data-in-dialog>: sent without leaving; the answer is the dialog's new content.
import { errorText, post } from "../js/http.js";
import { showToast } from "../js/toasts.js";
import { word } from "../js/words.js";

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-in-dialog]")) return;
  event.preventDefault();
  const dialog = form.closest("dialog");
  let answer;
  try {
    answer = await post(form.action, new FormData(form));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    showToast({ text: word("unreachable"), tone: "bad" });
    return;
  }
  if (!answer.ok) {
    showToast({ text: (await errorText(answer)) || word("failed"), tone: "bad" });
    return;
  }
  dialog.innerHTML = await answer.text();
  dialog.querySelector("[data-copy], button")?.focus();
});
