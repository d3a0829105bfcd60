// SPDX-License-Identifier: Apache-2.0
// Uploading a certificate: its content is shown first, and only then is it sent.

import { call, list } from './api.js';
import { fill, h, say } from './dom.js';
import { left, moment, plural } from './format.js';
import { query } from './router.js';
import { may } from './session.js';
import { read, textOf } from './x509.js';
import { badge, card, code, empty, facts, field, form, heading, input, linkButton, notice, select, table } from './ui.js';

// The content of a certificate, for display.
export function shown(one) {
  const expiry = left(one.notAfter);
  return h('div', { class: 'stack' },
    one.notAfter < new Date() ? notice('bad', 'It has expired: hosts would refuse it.') : null,
    one.notBefore > new Date() ? notice('warn', 'It is not valid yet.') : null,
    facts([
      ['Subject', one.subject], ['Issuer', one.subject === one.issuer ? `${one.issuer} (signed by itself)` : one.issuer],
      ['Names', one.names.join(', ')], ['Kind', one.ca ? 'an authority: it vouches for every server that it signed' : 'a server\'s own'],
      ['Valid from', moment(one.notBefore)], ['Valid until', [moment(one.notAfter), ' ', badge(expiry.text, expiry.tone)]],
      ['Serial number', code(one.serial)],
    ]),
    facts([['SHA-256 fingerprint', one.fingerprint ? code(one.fingerprint) : 'this browser computes none without TLS']]));
}

// A field for a certificate, by paste or file, with a preview: {boxes, value()}.
export function certificateFields() {
  const pem = field('Certificate', h('textarea', { rows: '7', spellcheck: 'false', placeholder: '-----BEGIN CERTIFICATE-----' }), {
    required: true, hint: 'Paste PEM, base64 or PKCS#7, or choose a file.' });
  const file = field('From a file', input({ type: 'file', accept: '.pem,.crt,.cer,.der,.p7b,.p7c' }));
  const seen = h('div', { class: 'stack', 'aria-live': 'polite' });
  let turn = 0;
  async function look() {
    turn += 1;
    const mine = turn;
    const given = pem.control.value.trim();
    if (!given) {
      fill(seen);
      return;
    }
    let parts = [];
    try {
      const found = await read(given);
      parts = found.length > 1
        ? [h('p', { class: 'note' }, `A bundle of ${plural(found.length, 'certificate')}`), ...found.map((one, n) => h('details', { open: n === 0 }, h('summary', {}, one.subject), shown(one)))]
        : [shown(found[0])];
    } catch (error) {
      parts = [notice('bad', `This is no certificate: ${error.message}.`)];
    }
    if (mine === turn) fill(seen, h('h3', {}, 'What it says'), parts);
  }
  pem.control.addEventListener('input', look);
  file.control.addEventListener('change', async () => {
    const [chosen] = file.control.files;
    if (!chosen) return;
    pem.control.value = await textOf(chosen);
    await look();
  });
  return { boxes: [pem.box, file.box, seen], value: () => pem.control.value.trim() };
}

export function outcomes(rows) {
  return table('What became of it on each host', [
    { title: 'Host', cell: (row) => row.hostname },
    { title: 'State', cell: (row) => badge(row.status) },
    { title: 'Why', cell: (row) => row.details || '–' },
  ], rows, { empty: empty('No host yet', 'Hosts that join later get it.') });
}

export async function uploadCertificate({ box, signal }) {
  const zones = await list('listZones', 'zone', {}, { signal });
  if (!zones.length || !may('uploadTemplateDirectDownloadCertificate')) {
    fill(box, heading('Upload a certificate'), empty('There is no zone yet', 'A certificate goes to the hosts of a zone.', linkButton('Create a zone', '#/zones', { kind: 'primary' })));
    return;
  }
  const name = field('Name', input({ maxlength: '255', value: query().get('name') ?? '' }), { required: true, hint: 'Its alias in the hosts\' keystores.' });
  const zone = field('Zone', select(zones.map((one) => [one.id, one.name])), { required: true });
  if (query().get('zone')) zone.control.value = query().get('zone');
  const certificate = certificateFields();
  const done = h('div', {});
  const body = form([name.box, zone.box, certificate.boxes], 'Upload', async () => {
    const answer = await call('uploadTemplateDirectDownloadCertificate', {
      name: name.control.value.trim(), zoneid: zone.control.value, hypervisor: 'KVM', certificate: certificate.value() });
    const made = answer.uploadtemplatedirectdownloadcertificate;
    say(`${made.alias} was uploaded.`);
    fill(done, card(`${made.alias} was uploaded`, h('div', { class: 'stack' }, outcomes(made.hostsmap ?? [])),
      { more: linkButton('All certificates', '#/certificates') }));
    done.scrollIntoView({ block: 'nearest' });
  });
  fill(box, h('p', { class: 'crumb' }, h('a', { href: '#/certificates' }, 'Certificates')), heading('Upload a certificate'),
    h('section', { class: 'card', 'aria-label': 'Upload a certificate' }, body), done);
}
