// Says what went wrong with a security key: allauth's script would say it to the console alone.
const WHY = { InvalidStateError: "known", NotAllowedError: "refused", AbortError: "refused" };

document.addEventListener("allauth.error", (event) => {
  event.preventDefault();
  const why = WHY[event.detail.exception?.name] ?? "impossible";
  for (const notice of document.querySelectorAll("[data-key-trouble] > [data-why]")) {
    notice.hidden = notice.dataset.why !== why;
  }
});
