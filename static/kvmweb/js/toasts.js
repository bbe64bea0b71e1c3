// Short news with the next step. The region is polite, so screen readers hear it in their turn.
import { errorOf } from "./http.js";
import { word } from "./words.js";

const SHOWN_MS = 9000;
const ICONS = { ok: "circle-check", work: "info", warn: "triangle-alert", bad: "circle-alert" };
const SEEN_KEY = "kvmweb.jobs";

function svg(name) {
  const model = document.getElementById("toast-model").content.querySelector("use").getAttribute("href");
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${model.split("#")[0]}#${name}`);
  icon.append(use);
  return icon;
}

// The text and, below it, where it leads.
function lines({ text, link, linkText }) {
  const body = document.createElement("div");
  const line = document.createElement("div");
  line.textContent = text;
  body.append(line);
  if (link && link.startsWith("/")) {
    const next = document.createElement("a");
    next.className = "next";
    next.href = link;
    next.textContent = linkText || link;
    body.append(next);
  }
  return body;
}

export function showToast({ text, tone = "ok", link = "", linkText = "" }) {
  const region = document.getElementById("toasts");
  if (!region || !text) return;
  const toast = document.createElement("div");
  toast.className = `toast tone-${tone}`;
  const body = lines({ text, link, linkText });
  const close = document.createElement("button");
  close.type = "button";
  close.setAttribute("aria-label", word("dismiss"));
  close.append(svg("x"));
  toast.append(svg(ICONS[tone] ?? "info"), body, close);
  region.append(toast);
  while (region.children.length > 4) region.firstElementChild.remove();
  watch(toast);
}

// Where the form is: a toast would lie under the veil of its dialog.
export function showError(error, form) {
  const told = { ...error, text: error.text || word("failed"), tone: "bad" };
  const place = form?.closest("dialog[open]")?.querySelector(".dialog-body");
  if (!place) {
    showToast(told);
    return;
  }
  const notice = document.createElement("div");
  notice.className = "notice tone-bad";
  notice.setAttribute("role", "alert");
  notice.dataset.refused = "";
  notice.append(svg(ICONS.bad), lines(told));
  forget(form);
  const title = place.querySelector("h2");
  if (title) title.after(notice);
  else place.prepend(notice);
  notice.scrollIntoView({ block: "nearest" });
}

// What was refused before is not said while it is tried again.
export function forget(form) {
  form.closest("dialog")?.querySelector("[data-refused]")?.remove();
}

function watch(toast) {
  toast.querySelector("button")?.addEventListener("click", () => toast.remove());
  // An error stays until it is dismissed; the rest goes unless it is being read.
  if (toast.classList.contains("tone-bad")) return;
  const leave = () =>
    toast.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : toast.remove();
  setTimeout(leave, SHOWN_MS);
}

// --- jobs that end while the person is on any page ------------------------------------------
// The tray's fragment says which of my jobs are at work and which have ended lately. One that was
// at work when last looked (also on an earlier page) and has ended now is told, once.
function readSeen() {
  try {
    return new Set(JSON.parse(sessionStorage.getItem(SEEN_KEY) ?? "[]"));
  } catch {
    return new Set();
  }
}

function tellFinished() {
  const tray = document.getElementById("tray");
  if (!tray) return;
  const seen = readSeen();
  for (const item of tray.querySelectorAll("[data-finished]")) {
    if (!seen.delete(item.dataset.finished)) continue;
    showToast({
      text: item.dataset.text,
      tone: item.dataset.tone,
      link: item.dataset.link,
      linkText: item.dataset.linkText,
    });
  }
  for (const id of (tray.dataset.active ?? "").split(" ").filter(Boolean)) seen.add(id);
  sessionStorage.setItem(SEEN_KEY, JSON.stringify([...seen].slice(-200)));
}

for (const toast of document.querySelectorAll("#toasts .toast")) watch(toast);
document.addEventListener("kvmweb:toast", (event) => showToast(event.detail));
document.addEventListener("kvmweb:changed", (event) => {
  if (event.detail.element.id === "tray") tellFinished();
});
document.addEventListener("htmx:response:error", async (event) => {
  const { ctx } = event.detail;
  const copy = new Response(ctx.text, { headers: { "Content-Type": ctx.response.headers.get("Content-Type") ?? "" } });
  showError(await errorOf(copy));
});
document.addEventListener("htmx:error", () => showToast({ text: word("unreachable"), tone: "bad" }));
tellFinished();
