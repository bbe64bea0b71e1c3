// Requests of our own modules: same origin, with the CSRF token, as a fragment.
function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

export async function getFragment(url, signal) {
  return fetch(url, {
    headers: { "HX-Request": "true", "X-Requested-With": "fetch" },
    credentials: "same-origin",
    redirect: "manual",
    signal,
  });
}

export async function post(url, body) {
  return fetch(url, {
    method: "POST",
    body,
    headers: {
      "HX-Request": "true",
      "X-CSRFToken": csrfToken(),
      Accept: "text/html, application/problem+json",
    },
    credentials: "same-origin",
  });
}

// What an error response says to a person: problem details, or the marked text of a fragment.
export async function errorText(response) {
  return (await errorOf(response)).text;
}

// The same with the page that helps further, where the site names one: {text, link, linkText}.
export async function errorOf(response) {
  const type = response.headers.get("Content-Type") ?? "";
  const body = await response.text();
  if (type.includes("json")) {
    try {
      const problem = JSON.parse(body);
      return { text: problem.detail || problem.title || "", link: "" };
    } catch {
      return { text: "", link: "" };
    }
  }
  const page = new DOMParser().parseFromString(body, "text/html");
  const marked = page.querySelector("[data-error-text]");
  const text = (marked ?? page.body).textContent.trim().replace(/\s+/g, " ").slice(0, 400);
  return { text, link: marked?.dataset.link ?? "", linkText: marked?.dataset.linkText ?? "" };
}
