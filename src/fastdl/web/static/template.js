// SPDX-License-Identifier: Apache-2.0
// One template: what it is, where it comes from, which pools have it, and how to get it there.

import { call, job, list } from './api.js';
import { fill, h } from './dom.js';
import { bytes, moment } from './format.js';
import { keep, on } from './live.js';
import { go } from './router.js';
import { may, session } from './session.js';
import { group } from './templates.js';
import { transfer } from './transfer.js';
import { action, badge, button, card, code, confirm, dialog, empty, facts, field, form, heading, notice, select, table, tick, ticks, when } from './ui.js';

async function fetchOne(id, signal) {
  const filter = session.user.admin ? 'all' : 'executable';
  const templates = await list('listTemplates', 'template', { templatefilter: filter, id }, { signal });
  if (templates.length) return group(templates, false)[0];
  return group(await list('listIsos', 'iso', { isofilter: filter, id }, { signal }), true)[0] ?? null;
}

export async function templateDetails({ box, params, signal }) {
  const { id } = params;
  const transfers = new Map();
  const places = h('div', { class: 'stack' });
  const about = h('div', { class: 'stack' });
  let one = await fetchOne(id, signal);
  if (!one) {
    fill(box, heading('Template'), empty('There is no such template', 'It was deleted, or it is somebody else\'s.'));
    return;
  }
  const what = one.iso ? 'ISO' : 'template';
  const mine = session.user.admin || one.account === session.user.account;

  async function load() {
    const [fresh, downloads, copies] = await Promise.all([
      fetchOne(id, signal),
      list('listTemplateDownloads', 'templatedownload', { templateid: id }, { signal }),
      may('listTemplateCopies') ? list('listTemplateCopies', 'templatecopy', { templateid: id }, { signal }) : [],
    ]);
    one = fresh ?? one;
    fill(about, notes(one), columns(one));
    draw(downloads, copies);
  }

  function draw(downloads, copies) {
    const running = downloads.filter((row) => !['DONE', 'FAILED', 'CANCELLED'].includes(row.state));
    for (const row of downloads) {
      const known = transfers.get(row.storageid) ?? transfer({ title: row.storagename, refresh: load });
      transfers.set(row.storageid, known);
      known.update({ ...row, templateid: id });
    }
    const others = downloads.filter((row) => !running.includes(row));
    const held = new Map(copies.map((copy) => [copy.storageid, copy]));
    const pools = [
      ...others.map((row) => ({ ...row, copy: held.get(row.storageid) })),
      ...copies.filter((copy) => !downloads.some((row) => row.storageid === copy.storageid) && copy.state !== 'Absent')
        .map((copy) => ({ ...copy, copy })),
    ];
    fill(places,
      running.length ? card('Downloads now', h('div', { class: 'flow' }, running.map((row) => transfers.get(row.storageid).node))) : null,
      card('Copies on primary storage', table('Copies', poolColumns(), pools, {
        empty: empty('On no pool yet', 'It is fetched when a VM needs it, or now: bring it to pools.'),
        key: (row) => row.storageid,
      })));
  }

  function poolColumns() {
    return [
      { title: 'Pool', cell: (row) => [row.storagename, row.installpath ? h('span', { class: 'sub' }, code(row.installpath)) : null] },
      { title: 'State', cell: (row) => [badge(row.copy?.state === 'Removing' ? 'Removing' : row.copy?.complete || row.state === 'DONE' ? 'Ready' : row.state),
        row.error || row.copy?.reason ? h('span', { class: 'sub' }, row.error ?? row.copy.reason) : null] },
      { title: 'Size', number: true, cell: (row) => bytes(row.physicalsize) },
      { title: 'Integrity', cell: (row) => row.integrity ?? '–' },
      { title: 'Mirrors', cell: (row) => row.mirrors?.length ? button(String(row.mirrors.length), () => showMirrors(row), { kind: 'small', key: `m${row.storageid}`, label: `Mirrors of ${row.storagename}` }) : '–' },
      { title: 'Used by', cell: (row) => (row.users ?? row.copy?.users ?? []).join(', ') || '–' },
      { title: 'Finished', cell: (row) => when(row.completed ?? row.updated) },
      { title: 'Actions', quiet: true, kind: 'end', cell: (row) => h('div', { class: 'actions' },
        row.state === 'FAILED' && may('prepareTemplate') ? action('Retry', () => prepare({ zoneid: row.zoneid, storageid: row.storageid }), { kind: 'small', key: `r${row.storageid}`, label: `Retry on ${row.storagename}` }) : null,
        (row.copy?.complete || row.state === 'DONE') && may('deleteTemplateCopy')
          ? button('Remove copy', () => removeCopy(row), { kind: 'small quiet', key: `x${row.storageid}`, label: `Remove the copy on ${row.storagename}` }) : null) },
    ];
  }

  function removeCopy(row) {
    const force = tick('Also where a VM uses it', {});
    confirm('Remove copy', `The copy of ${one.name} on ${row.storagename} is removed. The template stays registered.`, 'Remove',
      async () => {
        await job(await call('deleteTemplateCopy', { storageid: row.storageid, templateid: id, forced: force.control.checked }));
        await load();
      }, { extra: force.box });
  }

  async function prepare(values) {
    await call('prepareTemplate', { templateid: id, ...values });
    await load();
  }

  async function bring() {
    const [pools, hosts] = await Promise.all([
      may('listStoragePools') ? list('listStoragePools', 'storagepool') : [], may('listHosts') ? list('listHosts', 'host') : [],
    ]);
    const zone = field('Zone', select(one.zones.map(({ id: value, name }) => [value, name])));
    const target = field('Where', select([['', 'Every pool that hosts reach'], ['pool', 'One pool'], ['hosts', 'The pools of some hosts']]));
    const choice = h('div', {});
    let read = () => ({});
    const ask = () => {
      const here = (row) => row.zoneid === zone.control.value;
      if (target.control.value === 'pool') {
        const pool = field('Pool', select(pools.filter(here).map((row) => [row.id, `${row.name} (${row.state})`])));
        read = () => ({ storageid: pool.control.value });
        fill(choice, pool.box);
      } else if (target.control.value === 'hosts') {
        const some = ticks('Hosts', hosts.filter(here).map((row) => [row.id, `${row.name} (${row.state})`]));
        read = () => ({ hostids: some.chosen().join(',') });
        fill(choice, some.box);
      } else {
        read = () => ({});
        fill(choice);
      }
    };
    zone.control.addEventListener('change', ask);
    target.control.addEventListener('change', ask);
    let node = null;
    const body = form([zone.box, target.box, choice], 'Bring to pools', async () => {
      await prepare({ zoneid: zone.control.value, ...read() });
      node.close();
    }, { cancel: () => node.close() });
    node = dialog(`Bring ${one.name} to pools`, body);
  }

  function remove() {
    const keepCopies = tick('Leave the copies on primary storage');
    confirm(`Delete ${what}`, `${one.name} is deleted from ${one.zones.length > 1 ? 'all its zones' : 'its zone'}, its downloads are stopped, and copies that nobody uses are removed.`, 'Delete', async () => {
      await call(one.iso ? 'deleteIso' : 'deleteTemplate', { id, keepcopies: keepCopies.control.checked });
      go(`templates${one.iso ? '?kind=iso' : ''}`);
    }, { extra: keepCopies.box });
  }

  await keep(['event', 'download'], load, signal).first;
  on('progress', (data) => {
    for (const known of transfers.values()) known.progress(data);
  }, signal);
  if (signal.aborted) return;
  fill(box,
    h('p', { class: 'crumb' }, h('a', { href: `#/templates${one.iso ? '?kind=iso' : ''}` }, one.iso ? 'ISOs' : 'Templates')),
    heading(one.name,
      mine ? button('Delete', remove, { kind: 'quiet' }) : null,
      may('prepareTemplate') ? button('Bring to pools', bring, { kind: 'primary', symbol: 'download' }) : null),
    about, places);
}

function notes(one) {
  return [
    one.drift ? notice('warn', h('strong', {}, 'The source has changed: '), `${one.drift}. Hosts that fetch it now get other bytes than at registration.`) : null,
    ...(one.warnings ?? []).map((text) => notice('warn', text)),
  ];
}

function columns(one) {
  const digests = Object.entries(one.digests ?? {});
  const source = [
    ['Origin', one.url ? code(one.url) : null],
    ['Mirrors', one.origins?.length > 1 ? one.origins.map((origin) => h('div', {}, code(origin))) : null],
    ['Checksum', one.checksum ? code(one.checksum) : 'none was given'],
    ...digests.map(([name, value]) => [`${name} at registration`, code(value)]),
    ['ETag', one.validators?.etag ? code(one.validators.etag) : null],
    ['Last modified', one.validators?.last_modified],
    ['Request headers', Object.keys(one.details ?? {}).filter((name) => name.toUpperCase().startsWith('HTTP_HEADER')).map((name) => h('div', {}, code(name.split(':').slice(1).join(':')))) ],
    ['Registered', moment(one.created)],
    ['By', one.account],
  ].filter(([, value]) => !Array.isArray(value) || value.length);
  return h('div', { class: 'columns' },
    card(one.iso ? 'ISO' : 'Template', facts([
      ['Zones', h('div', { class: 'badges' }, one.zones.map((zone) => badge(zone.name, one.isready ? 'good' : 'warn')))],
      ['Text', one.displaytext], ['Format', one.format], ['Size at the origin', bytes(one.physicalsize)],
      ['Size of the disk', bytes(one.size)], ['OS type', one.ostypename], ['Hypervisor', one.hypervisor],
      ['Architecture', one.arch], ['Direct download', one.directdownload ? 'yes' : 'no'],
      ['Seen by', one.ispublic ? 'everybody' : 'its owner'], ['Bootable', one.iso ? (one.bootable ? 'yes' : 'no') : null],
    ])),
    card('Where it comes from', h('div', { class: 'stack' }, rows(source))));
}

function rows(pairs) {
  const node = facts(pairs);
  node.classList.add('rows');
  return node;
}

export function showMirrors(row) {
  const all = row.mirrors.reduce((sum, mirror) => sum + mirror.bytes, 0) || 1;
  dialog(`Mirrors of the copy on ${row.storagename}`, table('Mirrors', [
    { title: 'Mirror', cell: (mirror) => code(mirror.url) },
    { title: 'Share', number: true, cell: (mirror) => `${Math.round((mirror.bytes / all) * 100)} %` },
    { title: 'Bytes', number: true, cell: (mirror) => bytes(mirror.bytes) },
    { title: 'Requests', number: true, cell: (mirror) => mirror.requests },
    { title: 'Errors', number: true, cell: (mirror) => mirror.errors },
    { title: 'State', cell: (mirror) => mirror.state || 'used' },
  ], row.mirrors), { wide: true });
}
