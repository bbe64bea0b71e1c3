// Replace an element by new HTML in place: focus, selection and open menus stay.
export async function morph(element, html) {
  await window.htmx.swap({
    sourceElement: element,
    target: element,
    swap: "outerMorph ignoreTitle:true",
    text: html,
    request: {},
    hx: {},
  });
  document.dispatchEvent(new CustomEvent("kvmweb:changed", { detail: { element } }));
}
