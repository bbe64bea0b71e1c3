// Pictures of machines' screens: asked for again every few seconds while somebody looks.
const EVERY_MS = 5000;
const SOON_MS = 1200; // the first picture is being taken when the page opens

function refresh() {
  if (document.hidden) return;
  for (const picture of document.querySelectorAll("img[data-screen]")) {
    picture.src = `${picture.dataset.screen}?${Date.now()}`;
  }
}

setTimeout(refresh, SOON_MS);
setInterval(refresh, EVERY_MS);
