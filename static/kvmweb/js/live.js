// Live pages. The socket carries nudges {"topic", "id"}; every element with
//   data-live="topic" or "topic:id" (several with spaces), data-live-url="its own fragment"
// fetches its fragment again and morphs in place, so that rights, language and theme are settled
// by an ordinary view. While the socket is down the same elements are polled.
import { getFragment } from "./http.js";
import { morph } from "./morph.js";

const COALESCE_MS = 40; // a burst of nudges makes one request
const GAP_MS = 500; // between two requests of one element, unless data-live-gap says other
const POLL_MS = 5000;
const SIGNED_OUT_MS = 300;
const BACKOFF_MS = [500, 1000, 2000, 5000, 10000, 20000];

const states = new WeakMap();
let socket = null;
let attempts = 0;
let pollTimer = null;

function stateOf(element) {
  if (!states.has(element)) states.set(element, { timer: 0, last: 0, busy: false, again: false });
  return states.get(element);
}

function allLive() {
  return document.querySelectorAll("[data-live][data-live-url]");
}

export function schedule(element) {
  const state = stateOf(element);
  if (document.hidden) {
    state.again = true;
    return;
  }
  if (state.timer) return;
  if (state.busy) {
    state.again = true;
    return;
  }
  const gap = Number(element.dataset.liveGap ?? GAP_MS);
  const wait = Math.max(COALESCE_MS, state.last + gap - Date.now());
  state.timer = setTimeout(() => refresh(element, state), wait);
}

async function refresh(element, state) {
  state.timer = 0;
  if (!element.isConnected) return;
  state.busy = true;
  state.again = false;
  try {
    const answer = await ask(element.dataset.liveUrl);
    if (!answer) return;
    const { response, html } = answer;
    if (response.type === "opaqueredirect" || response.status === 401) {
      location.reload(); // signed out meanwhile
    } else if (response.status === 404 && element.dataset.liveGone) {
      location.assign(element.dataset.liveGone);
    } else if (response.ok && element.isConnected) {
      await morph(element, html);
    }
  } finally {
    state.busy = false;
    state.last = Date.now();
    if (state.again && element.isConnected) schedule(element);
  }
}

async function ask(url) {
  try {
    const response = await getFragment(url);
    return { response, html: response.ok ? await response.text() : "" };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return null; // the network is away, polling goes on
  }
}

function hears(element, topic, id) {
  return element.dataset.live.split(" ").some((word) => word === topic || word === `${topic}:${id}`);
}

export function nudge(topic, id) {
  for (const element of allLive()) if (hears(element, topic, id)) schedule(element);
}

function refreshAll() {
  for (const element of allLive()) schedule(element);
}

function showOffline(down) {
  const banner = document.getElementById("offline");
  if (banner) banner.hidden = !down;
}

function poll(on) {
  clearInterval(pollTimer);
  pollTimer = on ? setInterval(() => document.hidden || refreshAll(), POLL_MS) : null;
}

function connect() {
  const path = document.querySelector('meta[name="kvmweb-live"]')?.content;
  if (!path) return;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}${path}`);
  socket.onopen = () => {
    document.documentElement.dataset.socket = "open";
    refreshAll(); // what was missed while it was down, or since the server made this page
    attempts = 0;
    poll(false);
    showOffline(false);
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.topic) nudge(message.topic, message.id);
  };
  socket.onclose = (event) => {
    document.documentElement.dataset.socket = "closed";
    if (event.code === 4401 || event.code === 4403) {
      // Signed out or deactivated: the server says what now. Not at once: in the tab that is
      // signing out this would overtake the answer to its own request.
      setTimeout(() => location.reload(), SIGNED_OUT_MS);
      return;
    }
    if (attempts === 0) poll(true);
    if (attempts >= 2) showOffline(true);
    const pause = BACKOFF_MS[Math.min(attempts, BACKOFF_MS.length - 1)];
    attempts += 1;
    setTimeout(connect, pause * (0.7 + Math.random() * 0.6));
  };
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const element of allLive()) if (stateOf(element).again) schedule(element);
});

connect();
