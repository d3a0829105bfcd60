// SPDX-License-Identifier: Apache-2.0
// One download as it runs: its percent, rate and time left, changed in place.

import { call } from './api.js';
import { fill, h, svg } from './dom.js';
import { bytes, duration, rate } from './format.js';
import { may } from './session.js';
import { action, badge } from './ui.js';

const POINTS = 40;
const ENDED = new Set(['DONE', 'FAILED', 'CANCELLED']);
const STAGES = { network: 'the network', hash: 'hashing', decode: 'unpacking', write: 'storage', flush: 'storage' };

export function transfer({ title, href = null, refresh }) {
  const rates = [];
  let row = {};
  const name = h('span', { class: 'title' }, href ? h('a', { href }, title) : title);
  const state = h('span', {});
  const actions = h('div', { class: 'actions' });
  const bar = h('progress', { max: '100', 'aria-label': `Progress of ${title}` });
  const percent = h('b', {}, '0 %');
  const amount = h('span', {});
  const speed = h('b', {});
  const eta = h('span', {});
  const where = h('span', {});
  const stage = h('span', {});
  const area = svg('path', { class: 'area', d: '' });
  const line = svg('path', { d: '' });
  const spark = svg('svg', { class: 'spark', viewBox: '0 0 100 40', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, line);
  const mirrors = h('div', { class: 'figures' });
  const error = h('p', { class: 'note' });
  const node = h('article', { class: 'transfer' },
    h('div', { class: 'transferhead' }, name, state, where, actions),
    h('div', { class: 'transferbody' },
      h('div', { class: 'stack' }, bar, h('div', { class: 'figures' }, percent, amount, speed, eta, stage)), spark),
    mirrors, error);
  let offered = '';

  function draw() {
    const running = !ENDED.has(row.state);
    fill(state, badge(row.state ?? ''));
    bar.value = row.percent ?? 0;
    percent.textContent = `${row.percent ?? 0} %`;
    amount.textContent = row.totalbytes ? `${bytes(row.bytes ?? 0)} of ${bytes(row.totalbytes)}` : row.bytes ? bytes(row.bytes) : '';
    speed.textContent = running && row.rate ? rate(row.rate) : '';
    eta.textContent = running && row.eta !== null && row.eta !== undefined && row.rate ? `${duration(row.eta)} left` : '';
    stage.textContent = row.bottleneck ? `limited by ${STAGES[row.bottleneck] ?? row.bottleneck}` : running && row.stage ? row.stage : '';
    where.textContent = row.hostname ? `on ${row.hostname}` : row.state === 'QUEUED' ? 'waits for a host' : '';
    where.className = 'soft';
    error.textContent = row.error ?? '';
    error.hidden = !row.error;
    fill(mirrors, (row.mirrors ?? []).map((one) => share(one, row.mirrors)));
    spark.style.visibility = running ? 'visible' : 'hidden';
    const wanted = `${running}${row.state}`;
    if (wanted !== offered) {
      offered = wanted;
      fill(actions, offer(running));
    }
  }

  function offer(running) {
    if (running && row.state !== 'CANCELLING' && may('cancelTemplateDownload')) {
      return action('Cancel', async () => {
        await call('cancelTemplateDownload', { templateid: row.templateid, storageid: row.storageid });
        await refresh();
      }, { kind: 'small', key: `cancel${row.jobid}`, label: `Cancel ${title}` });
    }
    if (['FAILED', 'CANCELLED'].includes(row.state) && may('prepareTemplate')) {
      return action('Retry', async () => {
        await call('prepareTemplate', { templateid: row.templateid, zoneid: row.zoneid, storageid: row.storageid });
        await refresh();
      }, { kind: 'small', key: `retry${row.jobid}`, label: `Retry ${title}` });
    }
    return null;
  }

  function sketch() {
    const most = Math.max(...rates, 1);
    const step = 100 / (POINTS - 1);
    const points = rates.map((value, n) => `${((POINTS - rates.length + n) * step).toFixed(1)} ${(38 - (value / most) * 34).toFixed(1)}`);
    if (points.length < 2) return;
    line.setAttribute('d', `M${points.join('L')}`);
    area.setAttribute('d', `M${((POINTS - rates.length) * step).toFixed(1)} 40L${points.join('L')}L100 40Z`);
  }

  return {
    node,
    update(fresh) {
      if (row.jobid !== fresh.jobid) rates.length = 0;
      row = { ...fresh };
      draw();
    },
    progress(data) {
      if (data.job !== row.jobid || ENDED.has(row.state)) return;
      row = { ...row, state: 'RUNNING', bytes: data.done, totalbytes: data.total, rate: data.rate, stage: data.stage,
        percent: data.percent ?? row.percent, mirrors: data.mirrors ?? row.mirrors, bottleneck: data.bottleneck ?? row.bottleneck,
        eta: data.rate && data.total ? (data.total - data.done) / data.rate : null };
      rates.push(data.rate ?? 0);
      if (rates.length > POINTS) rates.shift();
      draw();
      sketch();
    },
  };
}

function share(one, all) {
  const whole = all.reduce((sum, mirror) => sum + mirror.bytes, 0) || 1;
  const host = one.url.replace(/^[a-z]+:\/\//, '').split('/')[0];
  const part = Math.round((one.bytes / whole) * 100);
  const trouble = [one.errors ? `${one.errors} errors` : '', one.state && one.state !== 'ok' ? one.state : ''].filter(Boolean).join(', ');
  return h('span', { title: one.url },
    h('span', { class: 'bar', 'aria-hidden': 'true' }, svg('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' }, svg('rect', { width: part, height: 10 }))),
    ` ${host} `, h('b', {}, `${part} %`), trouble ? h('span', { class: 'tone-bad' }, ` ${trouble}`) : null);
}
