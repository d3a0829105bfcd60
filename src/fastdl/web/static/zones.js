// SPDX-License-Identifier: Apache-2.0
// Zones: hosts that share templates and certificates.

import { call, list } from './api.js';
import { fill, h } from './dom.js';
import { keep } from './live.js';
import { action, badge, button, card, confirm, dialog, empty, field, form, heading, input, table } from './ui.js';

export async function zones({ box, signal }) {
  const shown = h('div', {});

  async function load() {
    const [rows, hosts] = await Promise.all([list('listZones', 'zone', {}, { signal }), list('listHosts', 'host', {}, { signal })]);
    fill(shown, table('Zones', columns(hosts), rows, {
      empty: empty('No zones yet', 'A zone needs a name; hosts, templates and certificates come into it.', button('Create a zone', () => edit(null), { kind: 'primary', symbol: 'plus' })),
      key: (one) => one.id }));
  }

  const columns = (hosts) => [
    { title: 'Name', cell: (one) => h('strong', {}, one.name) },
    { title: 'State', cell: (one) => badge(one.allocationstate) },
    { title: 'Hosts', number: true, cell: (one) => hosts.filter((host) => host.zoneid === one.id).length },
    { title: 'Hosts that are up', number: true, cell: (one) => hosts.filter((host) => host.zoneid === one.id && host.state === 'Up').length },
    { title: 'Id', cell: (one) => h('code', {}, one.id) },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => {
      const enabled = one.allocationstate === 'Enabled';
      return h('div', { class: 'actions' },
        button('Rename', () => edit(one), { kind: 'small', key: `n${one.id}`, label: `Rename ${one.name}` }),
        action(enabled ? 'Disable' : 'Enable', async () => {
          await call('updateZone', { id: one.id, allocationstate: enabled ? 'Disabled' : 'Enabled' });
          await load();
        }, { kind: 'small', key: `d${one.id}`, label: `${enabled ? 'Disable' : 'Enable'} ${one.name}` }),
        button('Delete', () => confirm(`Delete ${one.name}`, 'A zone can be deleted when no hosts, pools, templates and ISOs are left in it.', 'Delete', async () => {
          await call('deleteZone', { id: one.id });
          await load();
        }), { kind: 'small quiet', key: `x${one.id}`, label: `Delete ${one.name}` }));
    } },
  ];

  function edit(one) {
    const name = field('Name', input({ value: one?.name ?? '' }), { required: true });
    let node = null;
    const body = form([name.box], one ? 'Rename' : 'Create', async () => {
      const value = name.control.value.trim();
      await (one ? call('updateZone', { id: one.id, name: value }) : call('createZone', { name: value }));
      node.close();
      await load();
    }, { cancel: () => node.close() });
    node = dialog(one ? `Rename ${one.name}` : 'Create a zone', body);
    name.control.focus();
  }

  await keep(['event', 'host'], load, signal).first;
  if (signal.aborted) return;
  fill(box, heading('Zones', button('Create a zone', () => edit(null), { kind: 'primary', symbol: 'plus' })), card('Zones', shown));
}
