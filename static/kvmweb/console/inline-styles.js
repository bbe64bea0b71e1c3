// xterm.js styles itself with <style> elements and style attributes, which our content security
// policy refuses. Here both go through the CSSOM, which the policy allows. (Its option
// documentOverride reaches only a part of xterm.js 6.0.0.)
const create = document.createElement;

function styleElement() {
  const sheet = new CSSStyleSheet();
  const holder = create.call(document, "template");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(holder, "textContent", {
    get: () => "",
    set: (css) => sheet.replaceSync(css),
  });
  holder.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(holder);
  };
  return holder;
}

function spanElement() {
  const span = create.call(document, "span");
  span.setAttribute = (name, value) => {
    if (name === "style") span.style.cssText = value;
    else Element.prototype.setAttribute.call(span, name, value);
  };
  return span;
}

document.createElement = (name, options) => {
  if (name === "style") return styleElement();
  if (name === "span") return spanElement();
  return create.call(document, name, options);
};
