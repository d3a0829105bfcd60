// SPDX-License-Identifier: Apache-2.0
// Settings: the meaning of each, its current value, and its default.

import { call, list } from './api.js';
import { fill, h, icon, say } from './dom.js';
import { query, remember } from './router.js';
import { action, badge, button, card, code, dialog, empty, field, form, heading, input, select, table } from './ui.js';

export async function settings({ box, signal }) {
  let rows = await list('listConfigurations', 'configuration', {}, { signal });
  const word = input({ type: 'search', placeholder: 'Name or meaning', 'aria-label': 'Search settings', value: query().get('q') ?? '' });
  const groups = [...new Set(rows.map((one) => one.subgroup))];
  const shown = h('div', { class: 'stack' });

  const columns = [
    { title: 'Setting', cell: (one) => [h('strong', {}, code(one.name)), h('span', { class: 'sub' }, one.description)] },
    { title: 'Value', cell: (one) => [one.value === '' ? h('span', { class: 'soft' }, 'empty') : code(one.value), ' ',
      one.value === one.defaultvalue ? null : badge('changed', 'busy')] },
    { title: 'Default', cell: (one) => (one.defaultvalue === '' ? h('span', { class: 'soft' }, 'empty') : code(one.defaultvalue)) },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => h('div', { class: 'actions' },
      one.value === one.defaultvalue ? null : action('Reset', async () => {
        await call('updateConfiguration', { name: one.name });
        await load();
      }, { kind: 'small quiet', key: `r${one.name}`, label: `Reset ${one.name}` }),
      button('Change', () => edit(one), { kind: 'small', key: `e${one.name}`, label: `Change ${one.name}` })) },
  ];

  function draw() {
    const wanted = word.value.trim().toLowerCase();
    remember({ q: word.value.trim() });
    const found = rows.filter((one) => `${one.name} ${one.description}`.toLowerCase().includes(wanted));
    fill(shown, found.length ? groups.map((group) => {
      const some = found.filter((one) => one.subgroup === group);
      return some.length ? card(group, table(group, columns, some, { key: (one) => one.name })) : null;
    }) : empty('Nothing matches', 'No setting has that in its name or meaning.'));
  }

  async function load() {
    rows = await list('listConfigurations', 'configuration', {}, { signal });
    draw();
  }

  function edit(one) {
    const control = one.type === 'Boolean' ? select([['true'], ['false']]) : input({ maxlength: '4096' });
    control.value = one.value;
    const value = field('Value', control, { hint: one.description });
    let node = null;
    const body = form([value.box, h('p', { class: 'note' }, `Default: ${one.defaultvalue === '' ? 'empty' : one.defaultvalue}. It takes effect at once.`)], 'Save', async () => {
      await call('updateConfiguration', { name: one.name, value: control.value });
      node.close();
      say(`${one.name} was changed.`);
      await load();
    }, { cancel: () => node.close() });
    node = dialog(one.name, body);
    control.focus();
  }

  word.addEventListener('input', draw);
  draw();
  fill(box, heading('Settings'), h('div', { class: 'search' }, icon('search'), word), shown);
}
