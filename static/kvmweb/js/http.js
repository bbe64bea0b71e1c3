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
  const type = response.headers.get("Content-Type") ?? "";
  const body = await response.text();
  if (type.includes("json")) {
    try {
      const problem = JSON.parse(body);
      return problem.detail || problem.title || "";
    } catch {
      return "";
    }
  }
  const page = new DOMParser().parseFromString(body, "text/html");
  const marked = page.querySelector("[data-error-text]");
  return (marked ?? page.body).textContent.trim().replace(/\s+/g, " ").slice(0, 400);
}
