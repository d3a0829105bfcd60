// SPDX-License-Identifier: Apache-2.0
// How are elements made? From names and text only: no string ever becomes markup.

const SVG = 'http://www.w3.org/2000/svg';
const DIRECT = new Set(['value', 'checked', 'disabled', 'selected', 'required', 'readOnly', 'hidden',
  'multiple', 'open', 'indeterminate']);

// h('p', {class: 'x', onclick: f}, 'text', node, [more]) → element. null and false are left out.
export function h(name, props, ...children) {
  const node = document.createElement(name);
  set(node, props);
  put(node, children);
  return node;
}

function set(node, props) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (DIRECT.has(key)) node[key] = value;
    else node.setAttribute(key, value === true ? '' : String(value));
  }
}

function put(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

export function svg(name, props, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(props ?? {})) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

// Replace the content of *box*, and keep the focus where it was (elements with the same data-key).
export function fill(box, ...children) {
  const active = document.activeElement;
  const key = box.contains(active) ? active.dataset.key : undefined;
  box.replaceChildren();
  put(box, children);
  if (key === undefined) return;
  const again = [...box.querySelectorAll('[data-key]')].find((one) => one.dataset.key === key);
  again?.focus({ preventScroll: true });
}

let serial = 0;
export function freshId(prefix = 'n') {
  serial += 1;
  return `${prefix}${serial}`;
}

// Announce changes on the page to screen readers.
export function say(text) {
  document.getElementById('say').textContent = text;
}

const PATHS = {
  template: 'M12 3 3 7.5l9 4.5 9-4.5L12 3ZM3 12l9 4.5 9-4.5M3 16.5 12 21l9-4.5',
  download: 'M12 4v11m-4.5-4.5L12 15l4.5-4.5M5 20h14',
  certificate: 'M12 3l7 3v5c0 4.5-3 8-7 10-4-2-7-5.5-7-10V6l7-3Zm-3 8.5 2.2 2.2L15.2 10',
  host: 'M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01',
  zone: 'M4 20V9l8-5 8 5v11M9 20v-6h6v6',
  settings: 'M4 7h9m5 0h2M4 17h2m5 0h9M13 4.5v5M11 14.5v5',
  event: 'M5 6h14M5 12h14M5 18h9',
  user: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20c1-3.5 4-5 7.5-5s6.5 1.5 7.5 5',
  menu: 'M4 7h16M4 12h16M4 17h16',
  close: 'M6 6l12 12M18 6 6 18',
  theme: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Zm0 0v18m4-17v16',
  logout: 'M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  plus: 'M12 5v14M5 12h14',
  check: 'M5 12.5l4.5 4.5L19 7',
  warning: 'M12 4 2.5 20h19L12 4Zm0 6v4.5M12 17.3h.01',
  search: 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM15.5 15.5 20 20',
};

// A decorative icon: its meaning is in the text next to it, or in the label of its button.
export function icon(name) {
  return svg('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: PATHS[name] }));
}

// The mark: bytes that land.
export function mark() {
  return svg('svg', { class: 'mark', viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    svg('rect', { width: 24, height: 24, rx: 6 }), svg('path', { d: 'M12 5v9m-4-4 4 4 4-4M6 18h12' }));
}
