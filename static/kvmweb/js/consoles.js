// A console opens where its machine's was last: in a window of its own, or beside the machine's page.
export function preferences(uuid) {
  try {
    return JSON.parse(localStorage.getItem(`kvmweb.console.${uuid}`) ?? "{}");
  } catch {
    return {};
  }
}

export function remember(uuid, changes) {
  try {
    localStorage.setItem(`kvmweb.console.${uuid}`, JSON.stringify({ ...preferences(uuid), ...changes }));
  } catch {
    // a full or forbidden store: it is only not remembered
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-console-of]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (preferences(link.dataset.consoleOf).place !== "beside") return;
  event.preventDefault();
  location.assign(link.dataset.beside);
});
