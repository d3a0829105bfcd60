// SPDX-License-Identifier: Apache-2.0
// Registering a template or an ISO: CloudStack's fields, names and order, and a check of the
// source.

import { call, list } from './api.js';
import { fill, h } from './dom.js';
import { go, query } from './router.js';
import { may, session } from './session.js';
import { showSource } from './source.js';
import { busy, button, card, empty, field, form, heading, input, linkButton, notice, select, tick, ticks } from './ui.js';

const FORMATS = {
  KVM: ['QCOW2', 'RAW', 'VHD', 'VMDK'], XenServer: ['VHD'], VMware: ['OVA'], Hyperv: ['VHD', 'VHDX'], LXC: ['TAR'],
  BareMetal: ['BAREMETAL'], Custom: ['RAW'],
};
const ENDINGS = { qcow2: 'QCOW2', raw: 'RAW', vhd: 'VHD', vmdk: 'VMDK' };
const CHECKSUM_HINT = '{ALGORITHM}digits (MD5 without an algorithm), or the URL of a list that names the file.';
const ARCHITECTURES = ['x86_64', 'aarch64', 'i686', 's390x'];

export async function register({ box, signal }) {
  const iso = query().get('kind') === 'iso';
  const [zones, hypervisors, types] = await Promise.all([
    list('listZones', 'zone', { available: true }, { signal }),
    list('listHypervisors', 'hypervisor', {}, { signal }), list('listOsTypes', 'ostype', {}, { signal }),
  ]);
  const title = iso ? 'Register ISO' : 'Register Template';
  if (!zones.length) {
    fill(box, heading(title), empty('There is no zone yet', 'A template is registered in a zone.',
      may('createZone') ? linkButton('Create a zone', '#/zones', { kind: 'primary' }) : null));
    return;
  }
  const fields = iso ? isoFields(zones, types) : templateFields(zones, hypervisors, types);
  const result = h('div', { class: 'stack', 'aria-live': 'polite' });
  const look = button('Check the source', () => busy(look, probe, (error) => fill(result, notice('bad', error.message))), { symbol: 'search' });

  async function probe() {
    if (!fields.url.control.reportValidity()) return;
    fill(result, notice('', 'A host looks at the source…'));
    await showSource(result, { ...fields.probe(), zones: fields.zones() }, { signal, use: fields.use, zoneNames: new Map(zones.map((zone) => [zone.id, zone.name])) });
  }

  const body = form(fields.boxes, title, async () => {
    const answer = await call(iso ? 'registerIso' : 'registerTemplate', fields.values());
    const [made] = answer[iso ? 'iso' : 'template'];
    go(`templates/${made.id}`);
  }, { cancel: () => go(`templates${iso ? '?kind=iso' : ''}`) });
  fill(box,
    h('p', { class: 'crumb' }, h('a', { href: `#/templates${iso ? '?kind=iso' : ''}` }, iso ? 'ISOs' : 'Templates')),
    heading(title),
    h('div', { class: 'formcols' },
      h('section', { class: 'card', 'aria-label': title }, body),
      h('div', { class: 'side' }, card('Before you register', h('div', { class: 'stack' },
        h('p', { class: 'note' }, 'Have a host of the zone look at the source: its size, format, mirrors and digests, and whether the hosts trust it. Nothing is stored.'),
        h('div', {}, look), result)))));
}

function common(zones, types) {
  const url = field('URL', input({ type: 'text', inputmode: 'url', maxlength: '2048', placeholder: 'https://mirror.example/u24.qcow2.meta4' }), {
    required: true, hint: 'http, https or nfs; a metalink (.metalink, .meta4) brings mirrors and digests.' });
  const name = field('Name', input({ maxlength: '255' }), { required: true });
  const text = field('Display text', input({ maxlength: '4096' }), { hint: 'What users see; the name, where it is empty.' });
  const os = field('OS type', select([['', 'Other'], ...types.map((one) => [one.id, one.description])]));
  const arch = field('Architecture', select(ARCHITECTURES.map((one) => [one])));
  const headers = field('HTTP headers', h('textarea', { rows: '3', spellcheck: 'false' }), {
    hint: 'One a line, as "Name: value". They are sent to the origin; values are never shown again.' });
  const isPublic = tick('Public');
  const featured = session.user.admin ? tick('Featured') : null;
  const extractable = tick('Extractable');
  const password = tick('Password enabled');
  const scalable = tick('Dynamically scalable');
  const details = () => {
    const found = {};
    for (const line of headers.control.value.split('\n')) {
      if (!line.trim()) continue;
      const [key, ...rest] = line.split(':');
      found[`details[0].HTTP_HEADER:${key.trim()}`] = rest.join(':').trim();
    }
    return found;
  };
  return { url, name, text, os, arch, headers, isPublic, featured, extractable, password, scalable, details,
    all: session.user.admin ? [['-1', 'All zones']] : [], options: zones.map((zone) => [zone.id, zone.name]) };
}

// The API reports what is wrong with a value, so values are sent as entered.
function templateFields(zones, hypervisors, types) {
  const c = common(zones, types);
  const zone = ticks('Zone', [...c.all, ...c.options], { required: true, checked: zones.length === 1 ? [zones[0].id] : [] });
  const hypervisor = field('Hypervisor', select(hypervisors.map((one) => [one.name])), { required: true });
  const format = field('Format', select([]), { required: true });
  const direct = tick('Direct Download', { role: 'switch', hint: 'KVM hosts fetch the template from its origin onto primary storage.' });
  const checksum = field('Checksum', input({ placeholder: '{SHA-256}…' }), { hint: CHECKSUM_HINT });
  const controller = field('Root disk controller', select([['', 'None'], ['osdefault', 'As the OS type says'], ['ide'], ['scsi'], ['virtio']], { value: 'osdefault' }));
  const kind = field('Template type', select([['USER']]));
  const tag = session.user.admin ? field('Template tag', input()) : null;
  const hvm = tick('HVM', { checked: true });
  const slots = { direct: h('div', {}), checksum: h('div', {}) };
  const isKvm = () => hypervisor.control.value === 'KVM';

  function arrange() {
    fill(slots.direct, isKvm() ? direct.box : null);
    fill(slots.checksum, isKvm() && direct.control.checked ? checksum.box : null);
  }
  function changeHypervisor() {
    const known = FORMATS[hypervisor.control.value] ?? FORMATS.Custom;
    fill(format.control, known.map((one) => h('option', { value: one }, one)));
    direct.control.checked = false;
    arrange();
  }
  hypervisor.control.value = hypervisors.some((one) => one.name === 'KVM') ? 'KVM' : hypervisors[0]?.name;
  controller.control.value = 'osdefault';
  hypervisor.control.addEventListener('change', changeHypervisor);
  direct.control.addEventListener('change', arrange);
  c.url.control.addEventListener('change', () => {
    const found = Object.entries(ENDINGS).find(([ending]) => c.url.control.value.toLowerCase().includes(`.${ending}`));
    if (found && (FORMATS[hypervisor.control.value] ?? []).includes(found[1])) format.control.value = found[1];
  });
  changeHypervisor();

  const direct_ = () => isKvm() && direct.control.checked;
  return {
    url: c.url,
    zones: () => (zone.chosen().includes('-1') ? zones.map((one) => one.id) : zone.chosen()),
    boxes: [c.url.box, c.name.box, c.text.box, zone.box, hypervisor.box, format.box, slots.direct, slots.checksum,
      controller.box, c.os.box, kind.box, tag?.box,
      h('fieldset', { class: 'field' }, h('legend', {}, 'Options'), h('div', { class: 'row' },
        [c.extractable, c.password, c.scalable, hvm, c.featured, c.isPublic].map((one) => one?.box))),
      h('details', {}, h('summary', {}, 'Architecture and HTTP headers'), h('div', { class: 'stack' }, c.arch.box, c.headers.box))],
    probe: () => ({ url: c.url.control.value.trim(), format: format.control.value, ...c.details() }),
    use: (digest) => {
      if (!isKvm()) return;
      direct.control.checked = true;
      arrange();
      checksum.control.value = digest;
      checksum.control.focus();
    },
    values: () => ({
      url: c.url.control.value.trim(), name: c.name.control.value.trim(), displaytext: c.text.control.value.trim() || undefined,
      zoneids: zone.chosen().includes('-1') ? '-1' : zone.chosen().join(',') || undefined,
      hypervisor: hypervisor.control.value, format: format.control.value,
      directdownload: direct_(), checksum: (direct_() && checksum.control.value.trim()) || undefined,
      ...(controller.control.value ? { 'details[1].rootDiskController': controller.control.value } : {}),
      ostypeid: c.os.control.value || undefined, templatetag: tag?.control.value || undefined,
      isextractable: c.extractable.control.checked, passwordenabled: c.password.control.checked,
      isdynamicallyscalable: c.scalable.control.checked, requireshvm: hvm.control.checked,
      isfeatured: c.featured?.control.checked || undefined, ispublic: c.isPublic.control.checked,
      arch: c.arch.control.value, ...c.details(),
    }),
  };
}

function isoFields(zones, types) {
  const c = common(zones, types);
  const zone = field('Zone', select([...c.all, ...c.options]), { required: true });
  zone.control.value = zones[0].id;
  const direct = tick('Direct Download', { role: 'switch', hint: 'KVM hosts fetch the ISO from its origin onto primary storage.' });
  const checksum = field('Checksum', input({ placeholder: '{SHA-256}…' }), { hint: CHECKSUM_HINT });
  const slot = h('div', {});
  const bootable = tick('Bootable', { checked: true });
  const arrange = () => fill(slot, direct.control.checked ? checksum.box : null);
  direct.control.addEventListener('change', arrange);
  return {
    url: c.url,
    zones: () => (zone.control.value === '-1' ? zones.map((one) => one.id) : [zone.control.value]),
    boxes: [c.url.box, c.name.box, c.text.box, h('div', {}, direct.box), slot, zone.box, bootable.box, c.os.box,
      h('fieldset', { class: 'field' }, h('legend', {}, 'Options'), h('div', { class: 'row' }, [c.extractable, c.featured, c.isPublic].map((one) => one?.box))),
      h('details', {}, h('summary', {}, 'Architecture and HTTP headers'), h('div', { class: 'stack' }, c.arch.box, c.headers.box))],
    probe: () => ({ url: c.url.control.value.trim(), format: 'ISO', ...c.details() }),
    use: (digest) => {
      direct.control.checked = true;
      arrange();
      checksum.control.value = digest;
      checksum.control.focus();
    },
    values: () => ({
      url: c.url.control.value.trim(), name: c.name.control.value.trim(), displaytext: c.text.control.value.trim() || undefined,
      zoneid: zone.control.value, directdownload: direct.control.checked,
      checksum: (direct.control.checked && checksum.control.value.trim()) || undefined, bootable: bootable.control.checked,
      ostypeid: c.os.control.value || undefined, isextractable: c.extractable.control.checked,
      isfeatured: c.featured?.control.checked || undefined, ispublic: c.isPublic.control.checked, arch: c.arch.control.value, ...c.details(),
    }),
  };
}
