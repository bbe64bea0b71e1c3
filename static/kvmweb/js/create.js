// The create form: what is wrong is opened and focused, and stops being marked once it is changed.
const form = document.getElementById("create-form");

function focusFirstError() {
  const wrong = form.querySelector('[aria-invalid="true"]');
  for (const field of form.querySelectorAll('[aria-invalid="true"]')) {
    const folded = field.closest("details:not([open])");
    if (folded) folded.open = true;
  }
  wrong?.focus();
}

form?.addEventListener("input", (event) => event.target.removeAttribute("aria-invalid"));
// A second press while the first is on its way makes no second machine (the server checks as well).
form?.addEventListener("submit", (event) => {
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
});
addEventListener("pageshow", () => delete form?.dataset.sent);
if (form) focusFirstError();
