// SPDX-License-Identifier: Apache-2.0
// Which templates and ISOs exist, and where? And what is needed before there is one.

import { list } from './api.js';
import { fill, h, icon } from './dom.js';
import { bytes, plural } from './format.js';
import { keep } from './live.js';
import { query, remember } from './router.js';
import { may, session } from './session.js';
import { badge, card, empty, heading, input, linkButton, table, when } from './ui.js';

// Return one row per template, with the zones it is offered in.
export async function fetchTemplates(signal) {
  const filter = session.user.admin ? 'all' : 'executable';
  const [templates, isos] = await Promise.all([
    list('listTemplates', 'template', { templatefilter: filter }, { signal }),
    list('listIsos', 'iso', { isofilter: filter }, { signal }),
  ]);
  return [...group(templates, false), ...group(isos, true)];
}

export function group(rows, iso) {
  const known = new Map();
  for (const row of rows) {
    const one = known.get(row.id) ?? { ...row, iso, zones: [] };
    one.zones.push({ id: row.zoneid, name: row.zonename });
    known.set(row.id, one);
  }
  return [...known.values()];
}

export async function templates({ box, signal }) {
  let rows = [];
  let copies = new Map();
  const word = input({ type: 'search', placeholder: 'Name, URL, owner', 'aria-label': 'Search templates', value: query().get('q') ?? '' });
  const iso = () => query().get('kind') === 'iso';
  const segment = (text, value) => h('button', {
    type: 'button', onclick: () => { remember({ kind: value }); draw(); }, 'data-key': `kind-${value}`,
  }, text);
  const kinds = [['Templates', ''], ['ISOs', 'iso']].map(([text, value]) => [segment(text, value), value]);
  const shown = h('div', {});
  const steps = h('div', {});

  const columns = [
    { title: 'Name', cell: (one) => [
      h('a', { href: `#/templates/${one.id}` }, one.name),
      one.displaytext !== one.name ? h('span', { class: 'sub' }, one.displaytext) : null] },
    { title: 'Zones', cell: (one) => h('div', { class: 'badges' }, one.zones.map((zone) => badge(zone.name, one.isready ? 'good' : 'warn')), notes(one)) },
    ...(may('listTemplateCopies') ? [{ title: 'Copies', number: true, cell: (one) => copies.get(one.id) ?? 0 }] : []),
    { title: 'Format', cell: (one) => one.format },
    { title: 'Size', number: true, cell: (one) => bytes(one.physicalsize) },
    { title: 'Disk', number: true, cell: (one) => bytes(one.size) },
    { title: 'Owner', cell: (one) => one.account },
    { title: 'Registered', cell: (one) => when(one.created), kind: 'nowrap' },
  ];

  function draw() {
    const wanted = word.value.trim().toLowerCase();
    remember({ q: word.value.trim() });
    for (const [control, value] of kinds) control.setAttribute('aria-pressed', String((value === 'iso') === iso()));
    const kind = rows.filter((one) => one.iso === iso());
    const found = kind.filter((one) => [one.name, one.displaytext, one.url, one.account]
      .some((text) => String(text ?? '').toLowerCase().includes(wanted)));
    const what = iso() ? 'ISO' : 'template';
    const nothing = kind.length
      ? empty('Nothing matches', 'No name, text, URL or owner has what you search for.')
      : empty(`No ${what}s yet`, `Register ${iso() ? 'an ISO' : 'a template'} by its URL; hosts fetch it when a VM needs it, or before.`,
        linkButton(iso() ? 'Register ISO' : 'Register Template', `#/register${iso() ? '?kind=iso' : ''}`, { kind: 'primary', symbol: 'plus' }));
    fill(shown, table(`${what}s`, columns, found, { empty: nothing, key: (one) => one.id }));
  }

  async function load() {
    const [found, held, first] = await Promise.all([
      fetchTemplates(signal),
      may('listTemplateCopies') ? list('listTemplateCopies', 'templatecopy', {}, { signal }) : [],
      may('listHosts') && !rows.length ? firstSteps(signal) : null,
    ]);
    rows = found;
    copies = new Map();
    for (const copy of held) if (copy.complete) copies.set(copy.templateid, (copies.get(copy.templateid) ?? 0) + 1);
    fill(steps, first);
    draw();
  }

  word.addEventListener('input', draw);
  await keep(['event'], load, signal).first;
  if (signal.aborted) return;
  const bar = h('div', { class: 'filters' }, h('div', { class: 'segments', role: 'group', 'aria-label': 'Kind' }, kinds.map(([one]) => one)),
    h('div', { class: 'search' }, icon('search'), word));
  fill(box, heading('Templates',
    linkButton('Register ISO', '#/register?kind=iso'),
    linkButton('Register Template', '#/register', { kind: 'primary', symbol: 'plus' })),
  steps, h('section', { class: 'card', 'aria-label': 'List' }, bar, shown));
}

function notes(one) {
  return [
    one.drift ? badge('Changed at the origin', 'warn') : null,
    one.warnings?.length ? badge(plural(one.warnings.length, 'warning'), 'warn') : null,
    one.ispublic ? badge('Public') : null,
  ];
}

// What a new installation needs, in order, shown until it is complete.
async function firstSteps(signal) {
  const [zones, hosts, certificates, found] = await Promise.all([
    list('listZones', 'zone', {}, { signal }), list('listHosts', 'host', {}, { signal }),
    list('listTemplateDirectDownloadCertificates', 'directdownloadcertificate', {}, { signal }), fetchTemplates(signal),
  ]);
  if (found.length && hosts.length) return null;
  const step = (n, done, title, text, href) => h('li', { class: done ? 'done' : '' },
    h('span', { class: 'count', 'aria-hidden': 'true' }, done ? icon('check') : n),
    h('a', { href }, title, done ? h('span', { class: 'unseen' }, ' (done)') : null), h('span', { class: 'note' }, text));
  return card('First steps', h('ol', { class: 'steps' },
    step(1, zones.length > 0, 'Create a zone', 'A name for hosts that share templates and certificates.', '#/zones'),
    step(2, hosts.length > 0, 'Add a host', 'A token, and one command to run on it.', '#/hosts'),
    step(3, certificates.length > 0, 'Trust a mirror', 'Only where its certificate is from an authority of your own.', '#/certificates'),
    step(4, found.length > 0, 'Register a template', 'A URL, a format, and a checksum if there is one.', '#/register')));
}
