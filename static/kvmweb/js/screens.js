// Pictures of machines' screens: <img data-screen="address"> is asked for again every few seconds
// while somebody sees it (data-screen-every says how many); [data-thumbnail="address"] shows one
// while it is pointed at or has the focus. The person chooses: pointed at, a column, or none.
const EVERY_S = 5;
const TURN_MS = 1000;
const POINTED_MS = 250; // who only passes over a list wants no pictures
const KEY = "kvmweb.screens";

const kept = new Map(); // address -> { tag, url, at }: what was asked for last

function choice() {
  try {
    return localStorage.getItem(KEY) ?? "hover";
  } catch {
    return "hover";
  }
}

function choose(value) {
  document.documentElement.dataset.screens = value;
  for (const select of document.querySelectorAll("[data-screens-choice]")) select.value = value;
}

// The address of the picture in this browser; "" while there is none.
async function load(address) {
  const before = kept.get(address);
  kept.set(address, { ...before, at: Date.now() });
  let answer;
  try {
    answer = await fetch(address, { cache: "no-cache", credentials: "same-origin" });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return before?.url ?? ""; // the network is away
  }
  if (!answer.ok) return "";
  const tag = answer.headers.get("ETag");
  if (before?.url && before.tag === tag) return before.url;
  const url = URL.createObjectURL(await answer.blob());
  if (before?.url) setTimeout(() => URL.revokeObjectURL(before.url), TURN_MS);
  kept.set(address, { tag, url, at: Date.now() });
  return url;
}

async function fill(picture) {
  const address = picture.dataset.screen;
  const last = kept.get(address);
  const every = Number(picture.dataset.screenEvery ?? EVERY_S) * 1000;
  if (last?.url && !picture.src) picture.src = last.url;
  if (last && Date.now() - last.at < every) return;
  const url = await load(address);
  if (url && picture.src !== url) picture.src = url;
}

function refresh() {
  if (document.hidden || choice() === "off") return;
  for (const picture of document.querySelectorAll("img[data-screen]"))
    if (picture.checkVisibility()) fill(picture);
}

// --- beside what is pointed at ----------------------------------------------------------------
let timer = 0;
let box = null;

function hide() {
  clearTimeout(timer);
  box?.remove();
  box = null;
}

async function show(link) {
  const url = await load(link.dataset.thumbnail);
  if (!url || !link.matches(":hover, :focus")) return;
  hide();
  box = document.createElement("div");
  box.className = "thumbnail";
  const picture = document.createElement("img");
  picture.src = url;
  picture.alt = "";
  box.append(picture);
  document.body.append(box);
  const anchor = link.getBoundingClientRect();
  const above = anchor.bottom + box.offsetHeight + 8 > innerHeight;
  box.style.left = `${Math.min(anchor.left, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${above ? anchor.top - box.offsetHeight - 6 : anchor.bottom + 6}px`;
}

function pointed(event) {
  const link = event.target.closest?.("[data-thumbnail]");
  if (!link || choice() !== "hover") return;
  clearTimeout(timer);
  timer = setTimeout(() => show(link), POINTED_MS);
}

function left(event) {
  if (event.target.closest?.("[data-thumbnail]")) hide();
}

document.addEventListener("mouseover", pointed);
document.addEventListener("focusin", pointed);
document.addEventListener("mouseout", left);
document.addEventListener("focusout", left);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
document.addEventListener("scroll", hide, { capture: true, passive: true });
document.addEventListener("change", (event) => {
  if (!event.target.matches?.("[data-screens-choice]")) return;
  try {
    localStorage.setItem(KEY, event.target.value);
  } catch {
    // it holds until the page is left
  }
  choose(event.target.value);
  refresh();
});
document.addEventListener("kvmweb:changed", refresh);
choose(choice());
refresh();
setInterval(refresh, TURN_MS);
