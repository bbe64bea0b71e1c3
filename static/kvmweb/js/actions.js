// <form data-action method="post"> is sent without leaving the page. The answer is a toast (header
// X-Toast), another address (header X-Location), or an error that is told with its reason.
import { errorOf, post } from "./http.js";
import { nudge } from "./live.js";
import { forget, showError, showToast } from "./toasts.js";
import { word } from "./words.js";

async function send(form, submitter) {
  const body = new FormData(form, submitter ?? undefined);
  const buttons = form.querySelectorAll("button:not([aria-disabled])");
  for (const button of buttons) button.disabled = true;
  form.setAttribute("aria-busy", "true");
  forget(form);
  try {
    // "formAction" of a button without the attribute is the page's own address.
    const goal = submitter?.hasAttribute("formaction") ? submitter.formAction : form.action;
    const response = await post(goal, body);
    if (response.redirected) {
      location.assign(response.url);
    } else if (!response.ok) {
      showError(await errorOf(response), form);
    } else {
      settle(form, response);
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    showError({ text: word("unreachable") }, form);
  } finally {
    form.removeAttribute("aria-busy");
    for (const button of buttons) button.disabled = false;
  }
}

function settle(form, response) {
  form.closest("dialog")?.close();
  const toast = response.headers.get("X-Toast");
  if (toast) showToast(JSON.parse(decodeURIComponent(toast)));
  const goal = response.headers.get("X-Location");
  if (goal?.startsWith("/")) location.assign(goal);
  // The socket tells as well; this serves the person who pressed, also without a socket.
  for (const topic of (response.headers.get("X-Changed") ?? "").split(" ").filter(Boolean)) {
    const [name, id] = topic.split(":");
    nudge(name, id);
  }
  document.dispatchEvent(new CustomEvent("kvmweb:done", { detail: { form } }));
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-action]") || form.getAttribute("aria-busy") === "true") return;
  event.preventDefault();
  send(form, event.submitter);
});
