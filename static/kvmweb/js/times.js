// Keeps "3 minutes ago" true on a page that stays open.
const language = document.documentElement.lang || "en";
const format = new Intl.RelativeTimeFormat(language, { numeric: "always" });
const UNITS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];

function refresh() {
  if (document.hidden) return;
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const seconds = (Date.parse(element.dateTime) - Date.now()) / 1000;
    const unit = UNITS.find(([, size]) => Math.abs(seconds) >= size);
    if (!unit || Math.abs(seconds) > 30 * 86400) continue;
    element.textContent = format.format(Math.trunc(seconds / unit[1]), unit[0]);
  }
}

setInterval(refresh, 30000);
