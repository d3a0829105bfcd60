// SPDX-License-Identifier: Apache-2.0
// Which view belongs to the address? `#/hosts`, `#/templates/ID?tab=x`; one is shown at a time.

const routes = [];
let leave = null;
let outlet = null;
let wrap = () => {};

// *pattern*: segments, `:name` for any one; *view*(context) fills context.box.
export function route(pattern, view, section) {
  routes.push({ parts: pattern.split('/'), view, section });
}

export function start(box, changed) {
  outlet = box;
  wrap = changed;
}

export function go(address) {
  if (location.hash === `#/${address}`) show();
  else location.hash = `#/${address}`;
}

export function query() {
  return new URLSearchParams(location.hash.split('?')[1] ?? '');
}

// Change what follows the question mark without showing the view again.
export function remember(values) {
  const params = query();
  for (const [name, value] of Object.entries(values)) {
    if (value) params.set(name, value);
    else params.delete(name);
  }
  const text = params.toString();
  history.replaceState(null, '', `${location.hash.split('?')[0]}${text ? `?${text}` : ''}`);
}

function find(path) {
  const given = path.split('/');
  for (const { parts, view, section } of routes) {
    if (parts.length !== given.length) continue;
    const params = {};
    const fits = parts.every((part, n) => {
      if (!part.startsWith(':')) return part === given[n];
      params[part.slice(1)] = decodeURIComponent(given[n]);
      return true;
    });
    if (fits) return { view, section, params };
  }
  return null;
}

export function show() {
  if (!outlet?.isConnected) return;
  const found = find(location.hash.replace(/^#\/?/, '').split('?')[0]) ?? find('templates');
  leave?.abort();
  leave = new AbortController();
  outlet.replaceChildren();
  scrollTo(0, 0);
  wrap(found, { box: outlet, params: found.params, signal: leave.signal });
}

export function stop() {
  leave?.abort();
  leave = null;
  outlet = null;
}

addEventListener('hashchange', show);
