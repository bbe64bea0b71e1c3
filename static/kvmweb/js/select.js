// Lists with a box for each row (data-select): the bulk bar shows which verbs make sense for the
// chosen rows and how many each would touch ("Start 1"), from data-verbs="start delete" of a row.
const chosen = new Set(); // ids survive a live refresh and another page of the list

function boxes() {
  return [...document.querySelectorAll("input[data-select]")];
}

function update() {
  const bar = document.getElementById("bulk");
  if (!bar) return;
  const all = boxes();
  const verbs = new Map();
  let count = 0;
  for (const box of all) {
    box.checked = chosen.has(box.value);
    box.closest("tr")?.classList.toggle("selected", box.checked);
    if (!box.checked) continue;
    count += 1;
    for (const verb of (box.dataset.verbs ?? "").split(" ").filter(Boolean))
      verbs.set(verb, (verbs.get(verb) ?? 0) + 1);
  }
  const head = document.querySelector("input[data-select-all]");
  if (head) {
    head.checked = all.length > 0 && count === all.length;
    head.indeterminate = count > 0 && count < all.length;
  }
  bar.hidden = count === 0;
  bar.querySelector("[data-count]").textContent = String(count);
  for (const button of bar.querySelectorAll("[data-verb]")) {
    const touched = verbs.get(button.dataset.verb) ?? 0;
    button.hidden = touched === 0;
    const figure = button.querySelector("[data-verb-count]");
    if (figure) figure.textContent = String(touched);
    if (button.dataset.dialogBase) button.dataset.dialog = `${button.dataset.dialogBase}&${ids(button.dataset.verb)}`;
  }
  const holder = bar.querySelector("[data-ids]");
  if (holder) holder.value = [...chosen].join(" ");
}

function ids(verb) {
  const able = boxes().filter((box) => box.checked && (box.dataset.verbs ?? "").split(" ").includes(verb));
  return new URLSearchParams({ ids: able.map((box) => box.value).join(" ") }).toString();
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.matches?.("input[data-select]")) {
    if (box.checked) chosen.add(box.value);
    else chosen.delete(box.value);
    update();
  } else if (box.matches?.("input[data-select-all]")) {
    for (const one of boxes()) {
      if (box.checked) chosen.add(one.value);
      else chosen.delete(one.value);
    }
    update();
  }
});

// Shift and click chooses all between.
let lastBox = null;
document.addEventListener("click", (event) => {
  const box = event.target.closest?.("input[data-select]");
  if (box) {
    const all = boxes();
    const from = all.findIndex((one) => one.value === lastBox);
    const to = all.indexOf(box);
    if (event.shiftKey && from >= 0)
      for (const one of all.slice(Math.min(from, to), Math.max(from, to) + 1)) {
        if (box.checked) chosen.add(one.value);
        else chosen.delete(one.value);
      }
    lastBox = box.value; // "change" follows and updates
  } else if (event.target.closest?.("[data-select-none]")) {
    chosen.clear();
    update();
  }
});

function forgetGone() {
  const here = new Set(boxes().map((box) => box.value));
  for (const id of chosen) if (!here.has(id)) chosen.delete(id);
  update();
}

document.addEventListener("kvmweb:changed", forgetGone);
document.addEventListener("htmx:after:swap", forgetGone);
document.addEventListener("kvmweb:done", (event) => {
  if (event.detail.form.closest("#bulk") || event.detail.form.hasAttribute("data-bulk")) {
    chosen.clear();
    update();
  }
});
