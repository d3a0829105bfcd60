// SPDX-License-Identifier: Apache-2.0
// Which hosts and pools exist, how does a host join, and how does it leave?

import { call, job, list } from './api.js';
import { fill, h } from './dom.js';
import { bytes, moment } from './format.js';
import { keep } from './live.js';
import { action, badge, button, card, code, confirm, copyable, dialog, empty, facts, field, form, heading, input, linkButton, notice, select, table, tick, when } from './ui.js';

export async function hosts({ box, signal }) {
  let zones = [];
  let rows = [];
  let pools = [];
  let tokens = [];
  const shown = h('div', { class: 'stack' });

  async function load() {
    [zones, rows, pools, tokens] = await Promise.all([
      list('listZones', 'zone', {}, { signal }), list('listHosts', 'host', {}, { signal }),
      list('listStoragePools', 'storagepool', {}, { signal }), list('listHostTokens', 'hosttoken', {}, { signal }),
    ]);
    draw();
  }

  function draw() {
    const nothing = zones.length
      ? empty('No hosts yet', 'A host joins with a token and one command.', button('Add a host', add, { kind: 'primary', symbol: 'plus' }))
      : empty('There is no zone yet', 'A host belongs to a zone.', linkButton('Create a zone', '#/zones', { kind: 'primary' }));
    const open = tokens.filter((one) => one.state === 'Unused');
    fill(shown,
      card('Hosts', table('Hosts', hostColumns(), rows, { empty: nothing, key: (one) => one.id })),
      rows.length || pools.length ? card('Storage pools', table('Storage pools', poolColumns(), pools, {
        empty: empty('No pools', 'A host reports the pools of libvirt, and those that its --pool options name.'), key: (one) => one.id })) : null,
      open.length ? card('Tokens that wait for a host', table('Tokens', tokenColumns(), open, { key: (one) => one.id })) : null);
  }

  const hostColumns = () => [
    { title: 'Name', cell: (one) => [h('strong', {}, one.name), h('span', { class: 'sub' }, one.ipaddress ?? '')] },
    { title: 'State', cell: (one) => [h('div', { class: 'badges' }, badge(one.state), one.resourcestate === 'Enabled' ? null : badge(one.resourcestate)),
      one.state !== 'Up' && one.disconnected ? h('span', { class: 'sub' }, 'since ', when(one.disconnected)) : null,
      one.keystoreerror ? h('span', { class: 'sub tone-bad' }, `keystore: ${one.keystoreerror}`) : null] },
    { title: 'Zone', cell: (one) => [one.zonename, h('span', { class: 'sub' }, one.clustername)] },
    { title: 'Version', cell: (one) => [one.version || '–', h('span', { class: 'sub' }, one.arch ?? '')] },
    { title: 'Certificates', number: true, cell: (one) => one.certificates },
    { title: 'Identity until', kind: 'nowrap', cell: (one) => (one.certificateexpires ? h('span', { title: moment(one.certificateexpires) }, moment(one.certificateexpires).split(',').slice(0, 2).join(',')) : '–') },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => h('div', { class: 'actions' }, allocation(one),
      button('Remove', () => remove(one), { kind: 'small quiet', key: `x${one.id}`, label: `Remove ${one.name}` })) },
  ];

  function allocation(one) {
    if (['PrepareForMaintenance', 'Maintenance'].includes(one.resourcestate)) {
      return action('End maintenance', async () => {
        await job(await call('cancelHostMaintenance', { id: one.id }));
        await load();
      }, { kind: 'small', key: `m${one.id}`, label: `End the maintenance of ${one.name}` });
    }
    const enabled = one.resourcestate === 'Enabled';
    return [
      action(enabled ? 'Disable' : 'Enable', async () => {
        await call('updateHost', { id: one.id, allocationstate: enabled ? 'Disable' : 'Enable' });
        await load();
      }, { kind: 'small', key: `d${one.id}`, label: `${enabled ? 'Disable' : 'Enable'} ${one.name}` }),
      button('Drain', () => confirm(`Drain ${one.name}`, 'What it downloads now is finished; it gets nothing new. Then it is in maintenance.', 'Drain', async () => {
        await job(await call('prepareHostForMaintenance', { id: one.id }));
        await load();
      }, { danger: false }), { kind: 'small', key: `p${one.id}`, label: `Drain ${one.name}` }),
    ];
  }

  const poolColumns = () => [
    { title: 'Pool', cell: (one) => [h('strong', {}, one.name), one.path ? h('span', { class: 'sub' }, code(one.path)) : null] },
    { title: 'State', cell: (one) => [badge(one.state), one.error ? h('span', { class: 'sub' }, one.error) : null] },
    { title: 'Type', cell: (one) => [one.type, h('span', { class: 'sub' }, one.scope === 'HOST' ? 'of one host' : 'shared')] },
    { title: 'Zone', cell: (one) => [one.zonename, h('span', { class: 'sub' }, one.clustername)] },
    { title: 'Used', number: true, cell: (one) => bytes(one.disksizeused) },
    { title: 'Free', number: true, cell: (one) => bytes(one.disksizetotal - one.disksizeused) },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => (one.state === 'Up' ? '' : button('Forget', () => confirm(`Forget ${one.name}`, 'Only a pool that no host reports any more can be forgotten. No byte is deleted.', 'Forget', async () => {
      await call('deleteStoragePool', { id: one.id });
      await load();
    }), { kind: 'small quiet', key: `f${one.id}`, label: `Forget ${one.name}` })) },
  ];

  const tokenColumns = () => [
    { title: 'Zone', cell: (one) => one.zonename },
    { title: 'Cluster', cell: (one) => one.clustername },
    { title: 'For', cell: (one) => one.hostname ?? 'a new host' },
    { title: 'Created', cell: (one) => when(one.created) },
    { title: 'Expires', cell: (one) => moment(one.expires) },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => h('div', { class: 'actions' }, action('Revoke', async () => {
      await call('deleteHostToken', { id: one.id });
      await load();
    }, { kind: 'small', key: `t${one.id}`, label: `Revoke the token of ${one.zonename} that expires ${moment(one.expires)}` })) },
  ];

  function add() {
    const zone = field('Zone', select(zones.map((one) => [one.id, one.name])), { required: true });
    const cluster = field('Cluster', input({ placeholder: 'default' }), { hint: 'Hosts of a cluster share its pools.' });
    const replaced = field('Which host', select([['', 'A new one'], ...rows.map((one) => [one.id, `${one.name}, set up again`])]), {
      hint: 'A machine that was set up again takes its old place.' });
    const body = h('div', { class: 'stack' });
    const pool = 'images=/srv/images';
    const ask = form([zone.box, cluster.box, replaced.box], 'Create a token', async () => {
      const host = replaced.control.value || undefined;
      const made = await call('createHostToken', host ? { hostid: host } : { zoneid: zone.control.value, clustername: cluster.control.value.trim() || undefined });
      const manager = `https://${location.hostname}:${made.agentport ?? 8250}`;
      const command = `fastdl agent --manager ${manager} --token ${made.token} --state /var/lib/fastdl/agent --pool ${pool}`;
      fill(body,
        h('p', {}, 'Run this on the host, as root. The token lets one host in, once, and expires ', moment(made.expires), '.'),
        copyable(command, 'Copy the command'),
        facts([['Pools', 'Each --pool names a folder or a block device. libvirt\'s pools are found by themselves.'],
          ['Address', `Hosts have to reach ${manager}: change it where they know the manager by another name.`]]),
        notice('', 'The token is shown once. The host appears in the list as soon as it has joined.'));
      body.querySelector('.command').focus();
      await load();
    });
    fill(body, ask);
    dialog('Add a host', body, { wide: true });
  }

  function remove(one) {
    const forget = tick('Forget its local pools too', { hint: 'No byte is deleted.' });
    confirm(`Remove ${one.name}`, 'Its identity and its tokens are refused from now on. What it downloads goes to other hosts where they reach the pool.', 'Remove', async () => {
      await call('deleteHost', { id: one.id, forced: true, forcedestroylocalstorage: forget.control.checked });
      await load();
    }, { extra: forget.box });
  }

  await keep(['host', 'event'], load, signal, { every: 30_000 }).first;
  if (signal.aborted) return;
  fill(box, heading('Hosts', zones.length ? button('Add a host', add, { kind: 'primary', symbol: 'plus' }) : null), shown);
}
