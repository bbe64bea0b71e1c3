// The dialog that pastes: as keys into a screen, as bytes into a serial line, or into the clipboard
// of a guest that takes it.
import { remember } from "../js/consoles.js";
import { eventsOf, lacking, plain, runs } from "./typing.js";

const byId = (id) => document.getElementById(id);
// Between two characters. A guest in emulation drops keys that come faster.
const GAP_MS = { usual: 12, slow: 70 };
const SHOWN = 4000; // characters of a preview

export function startPaste({ words, settings, chosen, kind, screen, serial, focus }) {
  const dialog = byId("clipboard");
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  let atWork = null; // the AbortController of what is typed now

  const layout = () => byId("clipboard-layout").value;

  function preview() {
    const text = byId("clipboard-text").value;
    const keys = kind() === "vnc";
    const missing = keys ? lacking(text, layout()) : [];
    byId("clipboard-preview").replaceChildren(
      ...runs(text.slice(0, SHOWN), layout()).map((run) => {
        const part = document.createElement(run.known ? "span" : "mark");
        part.textContent = run.text;
        return part;
      }),
    );
    byId("clipboard-preview-part").hidden = !missing.length;
    byId("clipboard-notice").textContent = missing.length
      ? words.lacking.replace("%s", missing.slice(0, 30).join(" "))
      : "";
    const count = [...plain(text)].length;
    const left = [...plain(text)].filter((character) => !missing.includes(character)).length;
    byId("clipboard-type").disabled = left === 0;
    byId("clipboard-send").disabled = count === 0;
    byId("clipboard-type-word").textContent = missing.length ? words.type_rest : words.type;
    byId("clipboard-count").textContent = words.characters.replace("%s", String(count));
  }

  function strip(share) {
    byId("strip").hidden = share === null;
    byId("strip-progress").hidden = share === null;
    byId("strip-cancel").hidden = share === null;
    if (share === null) return;
    byId("strip-progress").value = share;
    byId("strip-text").textContent = words.typing.replace("%s", `${Math.round(share * 100)} %`);
  }

  // As keys of the chosen layout; what it lacks is left out. Resolves to whether all went out.
  async function type(text, told = () => {}, signal = null) {
    const characters = [...plain(text)];
    const gap = GAP_MS[byId("clipboard-slow").checked ? "slow" : "usual"];
    for (const [at, character] of characters.entries()) {
      if (signal?.aborted || !screen.open || screen.mode !== "control") return false;
      const events = eventsOf(character, layout());
      for (const { code, keysym, down } of events) screen.send(keysym, code, down);
      told((at + 1) / characters.length);
      if (events.length) await pause(gap);
    }
    return true;
  }

  async function typeShown() {
    const text = byId("clipboard-text").value;
    dialog.close();
    atWork?.abort();
    const work = new AbortController();
    atWork = work;
    strip(0);
    const told = (share) => atWork === work && strip(share);
    try {
      if (kind() === "serial") await serial().type(text, told, work.signal);
      else await type(text, told, work.signal);
    } finally {
      if (atWork === work) {
        atWork = null;
        strip(null);
        document.documentElement.dataset.typing = work.signal.aborted ? "stopped" : "done";
      }
    }
  }

  byId("open-clipboard").addEventListener("click", () => {
    preview();
    dialog.showModal();
    byId("clipboard-text").focus();
  });
  byId("clipboard-text").addEventListener("input", preview);
  byId("clipboard-layout").value = chosen.layout;
  byId("clipboard-layout").addEventListener("change", () => {
    chosen.layout = layout();
    remember(settings.uuid, { layout: chosen.layout });
    preview();
  });
  dialog.addEventListener("close", () => focus());
  byId("clipboard-send").addEventListener("click", () => {
    screen.toClipboard(byId("clipboard-text").value);
    dialog.close();
  });
  byId("clipboard-type").addEventListener("click", typeShown);
  byId("strip-cancel").addEventListener("click", () => {
    atWork?.abort();
    focus();
  });
  return { type, busy: () => atWork !== null };
}
