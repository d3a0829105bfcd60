// SPDX-License-Identifier: Apache-2.0
// Which certificates should hosts hold, which do they hold, and when do they expire?

import { call, list } from './api.js';
import { fill, h, say } from './dom.js';
import { day, left, plural, time } from './format.js';
import { keep } from './live.js';
import { query, remember } from './router.js';
import { certificateFields, outcomes } from './upload.js';
import { action, badge, button, card, code, confirm, dialog, empty, facts, field, form, heading, linkButton, notice, select, table } from './ui.js';

const WORDS = { UPLOADED: ['present', 'good'], FAILED: ['failed', 'bad'], SKIPPED: ['wanted', 'warn'], REVOKED: ['revoked', 'calm'] };
const SOON_DAYS = 30;

export async function certificates({ box, signal }) {
  const [zones] = await Promise.all([list('listZones', 'zone', {}, { signal })]);
  const zone = select([['', 'All zones'], ...zones.map((one) => [one.id, one.name])]);
  zone.value = query().get('zone') ?? '';
  const forecast = h('div', {});
  const listed = h('div', {});
  const matrix = h('div', { class: 'stack' });
  let rows = [];
  let hosts = [];

  async function load() {
    [rows, hosts] = await Promise.all([
      list('listTemplateDirectDownloadCertificates', 'directdownloadcertificate', { listhosts: true }, { signal }),
      list('listHosts', 'host', {}, { signal }),
    ]);
    draw();
  }

  function draw() {
    const here = (one) => !zone.value || one.zoneid === zone.value;
    const found = rows.filter(here).sort((a, b) => time(a.expires) - time(b.expires));
    fill(forecast, foresee(found));
    fill(listed, table('Certificates', columns(load), found, {
      empty: empty('No certificates', 'Hosts trust the authorities of their system. Upload a certificate where a mirror has one from somebody else.',
        linkButton('Upload a certificate', '#/upload', { kind: 'primary', symbol: 'plus' })), key: (one) => one.id }));
    fill(matrix, zones.filter((one) => !zone.value || one.id === zone.value).map((one) => grid(one, rows.filter((row) => row.zoneid === one.id), hosts.filter((host) => host.zoneid === one.id), load)));
  }

  zone.addEventListener('change', () => {
    remember({ zone: zone.value });
    draw();
  });
  await keep(['event', 'host'], load, signal).first;
  if (signal.aborted) return;
  const choose = zones.length > 1 ? h('div', { class: 'filters' }, field('Zone', zone).box) : null;
  fill(box, heading('Certificates', linkButton('Upload a certificate', '#/upload', { kind: 'primary', symbol: 'plus' })),
    choose, forecast, card('All certificates', listed), matrix);
}

// What will expire, and when, as a warning in advance.
function foresee(rows) {
  const soon = rows.filter((one) => (time(one.expires) - Date.now()) / 86_400_000 < SOON_DAYS);
  if (!soon.length) return null;
  return notice(soon.some((one) => left(one.expires).tone === 'bad') ? 'bad' : 'warn',
    h('strong', {}, `${plural(soon.length, 'certificate')} ${soon.length === 1 ? 'expires' : 'expire'} within ${SOON_DAYS} days: `),
    soon.map((one) => `${one.alias} in ${one.zonename} (${left(one.expires).text}, ${day(one.expires)})`).join('; '),
    '. Downloads that rely on one fail from then on: replace it.');
}

function columns(load) {
  return [
    { title: 'Name', cell: (one) => [h('strong', {}, one.alias), h('span', { class: 'sub' }, one.zonename)] },
    { title: 'Subject', cell: (one) => [one.subject, one.issuer !== one.subject ? h('span', { class: 'sub' }, `by ${one.issuer}`) : h('span', { class: 'sub' }, 'signed by itself')] },
    { title: 'Expires', kind: 'nowrap', cell: (one) => {
      const expiry = left(one.expires);
      return [badge(expiry.text, expiry.tone), h('span', { class: 'sub' }, day(one.expires))];
    } },
    { title: 'Hosts', cell: (one) => summary(one.hostsmap ?? []) },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => h('div', { class: 'actions' },
      button('Details', () => details(one), { kind: 'small', key: `d${one.id}`, label: `Details of ${one.alias}` }),
      button('Replace', () => rotate(one, load), { kind: 'small', key: `u${one.id}`, label: `Replace ${one.alias}` }),
      button('Revoke', () => revoke(one, null, load), { kind: 'small', key: `r${one.id}`, label: `Revoke ${one.alias}` }),
      button('Delete', () => remove(one, load), { kind: 'small quiet', key: `x${one.id}`, label: `Delete ${one.alias}` })) },
  ];
}

function summary(statuses) {
  const counts = new Map();
  for (const { status } of statuses) counts.set(status, (counts.get(status) ?? 0) + 1);
  if (!counts.size) return '–';
  return h('div', { class: 'badges' }, [...counts].map(([status, count]) => badge(`${count} ${WORDS[status]?.[0] ?? status}`, WORDS[status]?.[1])));
}

// Hosts × certificates of one zone. Each cell opens the actions for it.
function grid(zone, certs, hosts, load) {
  if (!certs.length || !hosts.length) return null;
  const status = (host, cert) => (cert.hostsmap ?? []).find((one) => one.hostid === host.id);
  const node = table(`Hosts and certificates of ${zone.name}`, [
    { title: 'Host', cell: (host) => [h('strong', {}, host.name), ' ', host.state === 'Up' ? null : badge(host.state)] },
    ...certs.map((cert) => ({ title: cert.alias, cell: (host) => cell(host, cert, status(host, cert), load) })),
  ], hosts, { key: (host) => host.id });
  node.classList.add('matrix');
  return card(`Hosts of ${zone.name}`, node, { note: 'Wanted: the host gets it when it is back. Failed: it is tried again. Press one for the reason, and for what can be done.' });
}

function cell(host, cert, known, load) {
  const [word, tone] = known ? WORDS[known.status] ?? [known.status, 'calm'] : ['absent', 'calm'];
  return h('button', {
    type: 'button', class: 'cell', 'data-key': `${host.id}/${cert.id}`, 'aria-label': `${cert.alias} on ${host.name}: ${word}`,
    title: known?.details ?? '', onclick: () => one(host, cert, known, word, tone, load),
  }, badge(word, tone));
}

function one(host, cert, known, word, tone, load) {
  let node = null;
  const done = h('div', { class: 'stack' });
  const body = h('div', { class: 'stack' },
    facts([['State', badge(word, tone)], ['Why', known?.details], ['Host', `${host.name} (${host.state})`]]), done,
    h('div', { class: 'actions' },
      action(known?.status === 'UPLOADED' ? 'Push again' : 'Push to this host', async () => {
        const answer = await call('provisionTemplateDirectDownloadCertificate', { id: cert.id, hostid: host.id });
        const now = answer.directdownloadcertificatehoststatus;
        fill(done, notice(now.status === 'UPLOADED' ? 'good' : 'bad', `${host.name}: ${now.status === 'UPLOADED' ? 'present' : now.details}`));
        await load();
      }),
      known && known.status !== 'REVOKED' ? button('Revoke from this host', () => {
        node.close();
        revoke(cert, host, load);
      }) : null));
  node = dialog(`${cert.alias} on ${host.name}`, body);
}

function details(one) {
  dialog(one.alias, h('div', { class: 'stack' }, facts([
    ['Zone', one.zonename], ['Version', one.version], ['Subject', one.subject], ['Issuer', one.issuer],
    ['Validity', one.validity], ['Serial number', code(String(one.serialnum).replace(/^SerialNumber: /, ''))],
  ]), facts([['SHA-256 fingerprint', code(String(one.fingerprint).toUpperCase().replace(/(..)(?=.)/g, '$1:'))]]),
  outcomes(one.hostsmap ?? [])), { wide: true });
}

function revoke(one, host, load) {
  const where = host ? `host ${host.name}` : `every host of ${one.zonename}, those that join later included`;
  confirm(`Revoke ${one.alias}`, `It is taken from ${where}. The next download that needs it is refused, and a running one that relies on it is stopped. The record stays: it can be pushed again.`, 'Revoke', async () => {
    const answer = await call('revokeTemplateDirectDownloadCertificate', { id: one.id, zoneid: one.zoneid, hypervisor: 'KVM', hostid: host?.id });
    await load();
    const rows = answer.directdownloadcertificatehoststatus ?? [];
    if (rows.some((row) => row.status !== 'REVOKED')) dialog(`${one.alias} is revoked`, outcomes(rows));
  });
}

function rotate(one, load) {
  const certificate = certificateFields();
  let node = null;
  const body = form([h('p', {}, `The new certificate takes the name ${one.alias} on every host that has the old one.`), certificate.boxes], 'Replace', async () => {
    const answer = await call('updateTemplateDirectDownloadCertificate', { id: one.id, certificate: certificate.value() });
    const [made] = Object.values(answer);
    node.close();
    say(`${one.alias} was replaced.`);
    await load();
    dialog(`${one.alias} was replaced`, outcomes(made.hostsmap ?? []));
  }, { cancel: () => node.close() });
  node = dialog(`Replace ${one.alias}`, body, { wide: true });
}

function remove(one, load) {
  confirm(`Delete ${one.alias}`, 'It is taken from every host, and its record is deleted. Its name can be used again.', 'Delete', async () => {
    await call('deleteTemplateDirectDownloadCertificate', { id: one.id });
    await load();
  });
}
