// xterm.js styles itself with <style> elements and style attributes, which our content security
// policy refuses. It takes another document as an option: this one gives it what looks the same and
// goes through the CSSOM, which the policy allows.
function styleElement(real) {
  const sheet = new CSSStyleSheet();
  const holder = real.createElement("template");
  Object.defineProperty(holder, "textContent", {
    get: () => "",
    set: (css) => sheet.replaceSync(css),
  });
  real.adoptedStyleSheets = [...real.adoptedStyleSheets, sheet];
  holder.remove = () => {
    real.adoptedStyleSheets = real.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(holder);
  };
  return holder;
}

function plainElement(real, name) {
  const element = real.createElement(name);
  element.setAttribute = (attribute, value) => {
    if (attribute === "style") element.style.cssText = value;
    else Element.prototype.setAttribute.call(element, attribute, value);
  };
  return element;
}

export function safeDocument(real) {
  const createElement = (name) =>
    name === "style" ? styleElement(real) : plainElement(real, name);
  return new Proxy(real, {
    get(target, name) {
      if (name === "createElement") return createElement;
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
}
