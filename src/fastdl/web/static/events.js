// SPDX-License-Identifier: Apache-2.0
// What happened? The log of events, with filters, newest first.

import { call } from './api.js';
import { fill, h } from './dom.js';
import { moment } from './format.js';
import { keep } from './live.js';
import { query, remember } from './router.js';
import { session } from './session.js';
import { badge, button, card, empty, field, heading, input, select, table } from './ui.js';

const SIZE = 50;  // rows per page, if the manager allows that many

export async function events({ box, signal }) {
  const given = query();
  const { capability } = await call('listCapabilities', {}, { signal });
  const size = Math.min(SIZE, capability.defaultpagesize);
  const level = select([['', 'All levels'], ['INFO'], ['WARN'], ['ERROR']]);
  const type = input({ placeholder: 'TEMPLATE.CREATE' });
  const word = input({ type: 'search', placeholder: 'In the text' });
  const account = input();
  const from = input({ type: 'date' });
  const until = input({ type: 'date' });
  const filters = { level, type, keyword: word, account, startdate: from, enddate: until };
  for (const [name, control] of Object.entries(filters)) control.value = given.get(name) ?? '';
  const shown = h('div', {});
  const pager = h('div', { class: 'actions' });
  let page = 1;

  async function load() {
    const params = { page, pagesize: size };
    for (const [name, control] of Object.entries(filters)) if (control.value.trim()) params[name] = control.value.trim();
    if (params.enddate) params.enddate = `${params.enddate} 23:59:59`;
    const answer = await call('listEvents', params, { signal });
    const rows = answer.event ?? [];
    const last = Math.max(1, Math.ceil((answer.count ?? 0) / size));
    fill(shown, table('Events', columns, rows, { empty: empty('No events', 'Nothing happened that matches.'), key: (one) => one.id }));
    fill(pager, last > 1 ? [
      button('Newer', () => turn(-1), { kind: 'small', disabled: page <= 1, key: 'newer' }), h('span', { class: 'soft' }, `Page ${page} of ${last}`),
      button('Older', () => turn(1), { kind: 'small', disabled: page >= last, key: 'older' })] : h('span', { class: 'soft' }, `${answer.count ?? 0} events`));
  }

  const columns = [
    { title: 'When', kind: 'nowrap', cell: (one) => moment(one.created) },
    { title: 'Level', cell: (one) => badge(one.level) },
    { title: 'What', cell: (one) => [one.description, h('span', { class: 'sub' }, one.type)] },
    { title: 'Who', kind: 'nowrap', cell: (one) => [one.username, one.address ? h('span', { class: 'sub' }, one.address) : null] },
  ];

  const { first, now } = keep(['event'], load, signal);
  async function turn(by) {
    page += by;
    await now();
  }
  let late = 0;
  const change = () => {
    clearTimeout(late);
    late = setTimeout(() => {
      page = 1;
      remember(Object.fromEntries(Object.entries(filters).map(([name, control]) => [name, control.value.trim()])));
      now().catch((error) => fill(shown, empty('That cannot be listed', error.message)));
    }, 250);
  };
  for (const control of Object.values(filters)) control.addEventListener('input', change);
  await first;
  if (signal.aborted) return;
  fill(box, heading('Events'), card('Log', h('div', { class: 'stack' }, h('div', { class: 'filters', role: 'search' },
    field('Level', level).box, field('Type', type).box, field('Text', word).box, session.user.admin ? field('Account', account).box : null,
    field('From', from).box, field('Until', until).box), shown), { more: pager }));
}
