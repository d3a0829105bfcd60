// SPDX-License-Identifier: Apache-2.0
// The parts that views are made of: headings, tables, badges, fields, dialogs.

import { fill, freshId, h, icon, say } from './dom.js';
import { ago, moment } from './format.js';

export function heading(title, ...actions) {
  return h('div', { class: 'heading' },
    h('h1', { tabindex: '-1' }, title), h('div', { class: 'actions' }, actions));
}

export function button(text, onclick, { kind = '', symbol = '', key, label, disabled } = {}) {
  return h('button', { type: 'button', class: `button ${kind}`, onclick, 'data-key': key, 'aria-label': label, disabled },
    symbol ? icon(symbol) : null, text);
}

export function linkButton(text, href, { kind = '', symbol = '' } = {}) {
  return h('a', { class: `button ${kind}`, href }, symbol ? icon(symbol) : null, text);
}

const TONES = {
  Up: 'good', Ready: 'good', UPLOADED: 'good', DONE: 'good', Enabled: 'good', enabled: 'good', accepted: 'good',
  Down: 'bad', FAILED: 'bad', ERROR: 'bad', Alert: 'bad', refused: 'bad', Orphan: 'warn',
  WARN: 'warn', Disabled: 'warn', disabled: 'warn', locked: 'warn', WAITING: 'warn', SKIPPED: 'warn', Disconnected: 'warn',
  PrepareForMaintenance: 'warn', Maintenance: 'warn', Removing: 'warn', CANCELLING: 'warn',
  RUNNING: 'busy', GRANTED: 'busy', Connecting: 'busy', QUEUED: 'calm', REVOKED: 'calm', INFO: 'calm', CANCELLED: 'calm',
};

export function badge(text, tone = TONES[text] ?? 'calm') {
  return h('span', { class: `badge ${tone}` }, h('span', { class: 'dot', 'aria-hidden': 'true' }), text);
}

export function when(text) {
  return text ? h('time', { datetime: text, title: moment(text) }, ago(text)) : '–';
}

export function code(text) {
  return h('code', {}, text);
}

// A card with a title; *more* is to its right.
export function card(title, body, { more = null, note = '' } = {}) {
  const id = freshId('card');
  return h('section', { class: 'card', 'aria-labelledby': id },
    h('div', { class: 'cardhead' }, h('h2', { id }, title), more),
    note ? h('p', { class: 'note' }, note) : null, body);
}

// columns: [{title, cell(row) → node or text, number?, grow?}]. On a phone each row is a card.
export function table(caption, columns, rows, { empty = null, key = null } = {}) {
  if (!rows.length && empty) return empty;
  const id = freshId('table');
  return h('div', { class: 'scroll', role: 'group', 'aria-labelledby': id, tabindex: '0' },
    h('table', { role: 'table' },
      h('caption', { id, class: 'unseen' }, caption),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map((column) => (
        h('th', { scope: 'col', role: 'columnheader', class: column.number ? 'number' : '' },
          column.quiet ? h('span', { class: 'unseen' }, column.title) : column.title))))),
      h('tbody', { role: 'rowgroup' }, rows.map((row) => (
        h('tr', { role: 'row', 'data-row': key ? key(row) : null }, columns.map((column) => (
          h('td', { role: 'cell', class: `${column.number ? 'number' : ''} ${column.kind ?? ''}`, 'data-label': column.title },
            column.cell(row))))))))));
}

// What to do first if there is nothing yet.
export function empty(title, text, ...actions) {
  return h('div', { class: 'empty' }, h('p', { class: 'emptytitle' }, title), h('p', {}, text),
    actions.length ? h('div', { class: 'actions' }, actions) : null);
}

export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

export function notice(tone, ...children) {
  return h('div', { class: `notice ${tone}`, role: tone === 'bad' ? 'alert' : null },
    icon(tone === 'good' ? 'check' : 'warning'), h('div', {}, children));
}

export function waiting(text = 'Loading…') {
  return h('p', { class: 'waiting', role: 'status' }, h('span', { class: 'spinner', 'aria-hidden': 'true' }), text);
}

// --- fields -------------------------------------------------------------------------------

// A labelled control. *hint* is read with it, and so is the text of `field.refuse(text)`.
export function field(label, control, { hint = '', required = false } = {}) {
  const id = control.id || freshId('f');
  control.id = id;
  const hintId = `${id}h`;
  const errorId = `${id}e`;
  control.setAttribute('aria-describedby', `${hint ? hintId : ''} ${errorId}`.trim());
  if (required) control.required = true;
  const error = h('p', { class: 'fielderror', id: errorId });
  const box = h('div', { class: 'field' },
    h('label', { for: id }, label, required ? h('span', { class: 'must' }, ' (required)') : null),
    control, hint ? h('p', { class: 'hint', id: hintId }, hint) : null, error);
  return { box, control, refuse(text) { error.textContent = text; control.toggleAttribute('aria-invalid', Boolean(text)); } };
}

export function input(props = {}) {
  return h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', ...props });
}

export function select(options, props = {}) {
  return h('select', props, options.map(([value, text]) => h('option', { value }, text ?? value)));
}

export function tick(label, { checked = false, hint = '', role = null, onchange = null, name = null } = {}) {
  const id = freshId('c');
  const control = h('input', { type: 'checkbox', id, checked, role, onchange, name, class: role === 'switch' ? 'switch' : '' });
  if (hint) control.setAttribute('aria-describedby', `${id}h`);
  return { control, box: h('div', { class: 'tick' }, control, h('label', { for: id }, label),
    hint ? h('p', { class: 'hint', id: `${id}h` }, hint) : null) };
}

// A group of checkboxes under one legend: {box, chosen() → values}.
export function ticks(legend, options, { checked = [], hint = '', required = false } = {}) {
  const made = options.map(([value, text]) => [value, tick(text, { checked: checked.includes(value) })]);
  const box = h('fieldset', { class: 'field' }, h('legend', {}, legend, required ? h('span', { class: 'must' }, ' (required)') : null),
    h('div', { class: 'tickbox' }, made.map(([, one]) => one.box)), hint ? h('p', { class: 'hint' }, hint) : null);
  return { box, controls: made.map(([, one]) => one.control),
    chosen: () => made.filter(([, one]) => one.control.checked).map(([value]) => value) };
}

// A form that shows its own failure. *send*() may throw; until it returns the button is busy.
export function form(children, submit, send, { cancel = null, kind = 'primary' } = {}) {
  const trouble = h('div', { class: 'trouble', tabindex: '-1' });
  const go = h('button', { type: 'submit', class: `button ${kind}` }, submit);
  const node = h('form', { novalidate: false }, children, trouble,
    h('div', { class: 'actions' }, go, cancel ? button('Cancel', cancel) : null));
  node.addEventListener('submit', async (event) => {
    event.preventDefault();
    fill(trouble);
    await busy(go, send, (error) => {
      fill(trouble, notice('bad', error.message));
      trouble.focus();
    });
  });
  return node;
}

// Run *work* with *control* disabled; a failure is passed to *failed*.
export async function busy(control, work, failed) {
  control.setAttribute('aria-busy', 'true');
  control.disabled = true;
  try {
    return await work();
  } catch (error) {
    if (error.name !== 'AbortError') failed(error);
    return undefined;
  } finally {
    control.disabled = false;
    control.removeAttribute('aria-busy');
  }
}

// --- dialogs ------------------------------------------------------------------------------

export function dialog(title, body, { wide = false } = {}) {
  const id = freshId('d');
  const node = h('dialog', { 'aria-labelledby': id, class: wide ? 'wide' : '' },
    h('div', { class: 'dialoghead' }, h('h2', { id }, title),
      h('button', { type: 'button', class: 'plain', 'aria-label': 'Close', onclick: () => node.close() }, icon('close'))),
    body);
  const back = document.activeElement;
  const leave = () => node.close();
  node.addEventListener('close', () => {
    removeEventListener('hashchange', leave);
    node.remove();
    if (back?.isConnected) back.focus();
  });
  addEventListener('hashchange', leave);
  document.body.append(node);
  node.showModal();
  return node;
}

// Confirm something that cannot be undone; *work*() does it, and its failure is shown there.
export function confirm(title, text, verb, work, { danger = true, extra = null } = {}) {
  let node = null;
  const body = form([h('p', {}, text), extra], verb, async () => {
    await work();
    node.close();
    say(`${title}: done`);
  }, { cancel: () => node.close(), kind: danger ? 'danger' : 'primary' });
  node = dialog(title, body);
}

export function copyable(text, label) {
  const done = h('span', { class: 'copied', 'aria-hidden': 'true' });
  const press = async () => {
    try {
      await navigator.clipboard.writeText(text);
      done.textContent = 'Copied';
      say('Copied');
    } catch {
      const range = document.createRange();
      range.selectNodeContents(shown);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done.textContent = 'Press Ctrl+C';
    }
  };
  const shown = h('code', { class: 'command', tabindex: '0' }, text);
  return h('div', { class: 'copyable' }, shown,
    h('button', { type: 'button', class: 'button', onclick: press, 'aria-label': label }, icon('copy'), 'Copy'), done);
}

// A button that does one thing; a failure is shown next to it.
export function action(text, work, options = {}) {
  const box = h('span', { class: 'actionbox' });
  const control = button(text, () => {
    box.querySelector('.notice')?.remove();
    busy(control, work, (error) => box.append(notice('bad', error.message)));
  }, options);
  box.append(control);
  return box;
}
