// SPDX-License-Identifier: Apache-2.0
// What do hosts see at a source, and would they accept it? Checked before anything is registered.

import { call, list } from './api.js';
import { fill, h } from './dom.js';
import { bytes, plural } from './format.js';
import { may } from './session.js';
import { badge, button, code, facts, linkButton, notice } from './ui.js';

const HOSTS_MAX = 12;
const ORIGINS_MAX = 4;

// *given*: url, format, details and zones (ids); *use*(checksum) puts a digest into the form.
export async function showSource(box, given, { signal, use, zoneNames }) {
  const { zones, ...source } = given;
  let found = null;
  let trouble = null;
  try {
    const answer = await call('checkTemplateSource', { ...source, zoneids: zones.length ? zones.join(',') : undefined }, { signal });
    found = answer.templatesource;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    trouble = error;
  }
  const trust = h('div', { class: 'stack' });
  fill(box, trouble ? notice('bad', trouble.message) : seen(found, use), trust);
  const origins = originsOf([source.url, ...(found?.mirrors ?? [])]);
  if (!origins.length) {
    fill(trust, notice('warn', 'There is no TLS: only a checksum shows that the bytes are the right ones.'));
  } else if (may('checkDirectDownloadOrigin') && may('listHosts')) {
    fill(trust, h('h3', {}, 'Trust'), notice('', 'The hosts are asked…'));
    await showTrust(trust, origins, zones, { signal, zoneNames });
  }
}

function seen(found, use) {
  const digests = Object.entries(found.digests ?? {});
  return h('div', { class: 'stack' },
    ...(found.unsafe ?? []).map((text) => notice('bad', `Every download will be refused: ${text}`)),
    ...(found.warnings ?? []).map((text) => notice('warn', text)),
    facts([
      ['Size at the origin', bytes(found.size)], ['Size of the disk', bytes(found.virtualsize)],
      ['Format', found.format || 'not known'], ['Parallel and resumable', found.ranges ? 'yes' : 'no: the origin serves no ranges'],
      ['Metalink', found.metalink ? 'yes' : 'no'],
    ]),
    found.mirrors?.length ? h('div', {}, h('h3', {}, plural(found.mirrors.length, 'mirror')), found.mirrors.map((url) => h('div', {}, code(url)))) : null,
    digests.length ? h('div', { class: 'stack' }, h('h3', {}, 'Digests that the source names'), digests.map(([name, value]) => h('div', {},
      h('div', { class: 'soft' }, name.toUpperCase()), code(value), ' ',
      button('Use as checksum', () => use(`{${name.toUpperCase()}}${value}`), { kind: 'small' })))) : h('p', { class: 'note' }, 'The source names no digest.'));
}

function originsOf(urls) {
  const found = new Set();
  for (const url of urls) {
    try {
      const parsed = new URL(url);
      if (parsed.protocol === 'https:') found.add(parsed.origin);
    } catch {
      continue; // the API refuses what is not a URL
    }
  }
  return [...found].slice(0, ORIGINS_MAX);
}

async function showTrust(box, origins, zones, { signal, zoneNames }) {
  const hosts = (await list('listHosts', 'host', { state: 'Up' }, { signal })).filter((host) => !zones.length || zones.includes(host.zoneid));
  if (!hosts.length) {
    fill(box, h('h3', {}, 'Trust'), notice('warn', 'No host of the zone is connected that could be asked.'));
    return;
  }
  const asked = hosts.slice(0, HOSTS_MAX);
  const rows = await Promise.all(origins.flatMap((origin) => asked.map(async (host) => {
    try {
      const answer = await call('checkDirectDownloadOrigin', { hostid: host.id, url: origin }, { signal });
      return { origin, host, ...answer.directdownloadorigin };
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      return { origin, host, accepted: false, details: error.message };
    }
  })));
  fill(box, h('h3', {}, 'Trust'), origins.map((origin) => verdict(origin, rows.filter((row) => row.origin === origin), zoneNames)),
    hosts.length > asked.length ? h('p', { class: 'note' }, `${asked.length} of ${hosts.length} hosts were asked.`) : null);
}

function verdict(origin, rows, zoneNames) {
  const refused = rows.filter((row) => !row.accepted);
  if (!refused.length) {
    const by = [...new Set(rows.map((row) => row.acceptedby).filter(Boolean))].join(', ');
    return notice('good', h('strong', {}, origin), ` is accepted by ${plural(rows.length, 'host')}${by ? ` (${by === 'system' ? 'by the system\'s authorities' : `by ${by}`})` : ''}.`);
  }
  const reasons = [...new Set(refused.map((row) => row.details))];
  const [{ host }] = refused;
  const alias = new URL(origin).hostname.replace(/[^a-z0-9.-]/gi, '-');
  return h('div', { class: 'stack' },
    notice('warn', h('strong', {}, origin), ` is refused by ${refused.length} of ${plural(rows.length, 'host')}: ${reasons.join('; ')}`),
    h('div', { class: 'badges' }, refused.map((row) => badge(`${row.host.name} · ${zoneNames.get(row.host.zoneid) ?? ''}`, 'warn'))),
    may('uploadTemplateDirectDownloadCertificate')
      ? h('div', {}, linkButton('Upload its certificate', `#/upload?zone=${host.zoneid}&name=${encodeURIComponent(alias)}`, { kind: 'small', symbol: 'certificate' })) : null);
}
