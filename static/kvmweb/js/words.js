// Texts in the reader's language, from <template id="words" data-...> in base.html.
const holder = document.getElementById("words");

export function word(key) {
  return holder?.dataset[key] ?? "";
}
