// SPDX-License-Identifier: Apache-2.0
// What is being downloaded now, to which pools, and what ended recently?

import { call, list } from './api.js';
import { fill, h } from './dom.js';
import { bytes, duration, rate, time } from './format.js';
import { keep, on } from './live.js';
import { may } from './session.js';
import { showMirrors } from './template.js';
import { transfer } from './transfer.js';
import { action, badge, button, card, empty, heading, linkButton, table, when } from './ui.js';

const ENDED = new Set(['DONE', 'FAILED', 'CANCELLED']);

export async function downloads({ box, signal }) {
  const transfers = new Map();
  const now = h('div', { class: 'flow' });
  const lately = h('div', {});
  const total = h('span', { class: 'soft' });
  let shownIds = '';

  async function load() {
    const rows = await list('listTemplateDownloads', 'templatedownload', {}, { signal });
    const running = rows.filter((row) => !ENDED.has(row.state));
    for (const row of running) {
      const known = transfers.get(row.jobid) ?? transfer({
        title: `${row.templatename} → ${row.storagename}`, href: `#/templates/${row.templateid}`, refresh: load });
      transfers.set(row.jobid, known);
      known.update(row);
    }
    const ids = running.map((row) => row.jobid).join();
    if (ids !== shownIds || !running.length) {
      shownIds = ids;
      fill(now, running.length ? running.map((row) => transfers.get(row.jobid).node)
        : empty('Nothing is being downloaded', 'Bring a template to pools from its page, or let a VM ask for it.', linkButton('Templates', '#/templates')));
    }
    const sum = running.reduce((all, row) => all + (row.rate ?? 0), 0);
    total.textContent = running.length ? `${running.length} now, ${rate(sum)}` : '';
    fill(lately, table('Ended lately', columns(), rows.filter((row) => ENDED.has(row.state)), {
      empty: empty('Nothing ended lately', 'Downloads stay here for a day.'), key: (row) => row.jobid ?? row.storageid }));
  }

  const columns = () => [
    { title: 'Template', kind: 'nowrap', cell: (row) => h('a', { href: `#/templates/${row.templateid}` }, row.templatename) },
    { title: 'Pool', kind: 'nowrap', cell: (row) => [row.storagename, row.hostname ? h('span', { class: 'sub' }, `by ${row.hostname}`) : null] },
    { title: 'State', cell: (row) => [badge(row.state), row.error ? h('span', { class: 'sub' }, row.error) : null] },
    { title: 'Bytes', number: true, cell: (row) => bytes(row.fetchedbytes ?? row.physicalsize) },
    { title: 'Took', number: true, cell: (row) => (row.started && row.completed ? duration((time(row.completed) - time(row.started)) / 1000) : '–') },
    { title: 'Limited by', cell: (row) => row.bottleneck ?? '–' },
    { title: 'Mirrors', cell: (row) => (row.mirrors?.length ? button(String(row.mirrors.length), () => showMirrors(row), { kind: 'small', key: `m${row.jobid}`, label: `Mirrors of ${row.templatename} on ${row.storagename}` }) : '–') },
    { title: 'Ended', cell: (row) => when(row.completed ?? row.updated), kind: 'nowrap' },
    { title: 'Actions', quiet: true, kind: 'end', cell: (row) => h('div', { class: 'actions' }, row.state !== 'DONE' && may('prepareTemplate')
      ? action('Retry', async () => {
        await call('prepareTemplate', { templateid: row.templateid, zoneid: row.zoneid, storageid: row.storageid });
        await load();
      }, { kind: 'small', key: `r${row.jobid}`, label: `Retry ${row.templatename} on ${row.storagename}` }) : null) },
  ];

  await keep(['download', 'event'], load, signal, { every: 10_000 }).first;
  on('progress', (data) => transfers.get(data.job)?.progress(data), signal);
  if (signal.aborted) return;
  fill(box, heading('Downloads'), card('Now', now, { more: total }), card('Ended lately', lately));
}
