// SPDX-License-Identifier: Apache-2.0
// Users and their keys; users who are not administrators see only themselves.

import { call, job, list } from './api.js';
import { fill, h, say } from './dom.js';
import { may, session } from './session.js';
import { action, badge, button, card, code, confirm, copyable, dialog, empty, field, form, heading, input, notice, select, table, when } from './ui.js';

export async function users({ box, signal }) {
  const shown = h('div', {});
  const admin = may('createUser');

  async function load() {
    const rows = await list('listUsers', 'user', {}, { signal });
    fill(shown, table('Users', columns, rows, { empty: empty('No users', 'There is always one.'), key: (one) => one.id }));
  }

  const mine = (one) => one.id === session.user.id;
  const columns = [
    { title: 'User', cell: (one) => [h('strong', {}, one.username), h('span', { class: 'sub' }, [one.firstname, one.lastname].filter(Boolean).join(' '))] },
    { title: 'Account', cell: (one) => one.account },
    { title: 'Role', cell: (one) => one.roletype },
    { title: 'State', cell: (one) => badge(one.state) },
    { title: 'API key', cell: (one) => (one.apikey ? code(`${one.apikey.slice(0, 12)}…`) : 'none') },
    { title: 'Created', cell: (one) => when(one.created), kind: 'nowrap' },
    { title: 'Actions', quiet: true, kind: 'end', cell: (one) => h('div', { class: 'actions' },
      button('New keys', () => keys(one), { kind: 'small', key: `k${one.id}`, label: `New keys for ${one.username}` }),
      button('Password', () => password(one), { kind: 'small', key: `p${one.id}`, label: `Change the password of ${one.username}` }),
      admin && !mine(one) ? toggles(one) : null) },
  ];

  function toggles(one) {
    const enabled = one.state === 'enabled';
    return [
      action(enabled ? 'Disable' : 'Enable', async () => {
        if (enabled) await job(await call('disableUser', { id: one.id }));
        else await call('enableUser', { id: one.id });
        await load();
      }, { kind: 'small', key: `d${one.id}`, label: `${enabled ? 'Disable' : 'Enable'} ${one.username}` }),
      button('Delete', () => confirm(`Delete ${one.username}`, 'The user, the keys and the sessions are gone at once. Templates stay, for administrators.', 'Delete', async () => {
        await call('deleteUser', { id: one.id });
        await load();
      }), { kind: 'small quiet', key: `x${one.id}`, label: `Delete ${one.username}` }),
    ];
  }

  function keys(one) {
    let node = null;
    const body = h('div', { class: 'stack' });
    fill(body, form([h('p', {}, one.apikey ? 'The keys in use stop working at once.' : 'This user has no keys yet.')], 'Make new keys', async () => {
      const answer = await call('registerUserKeys', { id: one.id });
      const made = answer.userkeys;
      fill(body, notice('warn', 'The secret key is shown once. Keep it where nobody else reads.'),
        h('h3', {}, 'API key'), copyable(made.apikey, 'Copy the API key'), h('h3', {}, 'Secret key'), copyable(made.secretkey, 'Copy the secret key'));
      await load();
    }, { cancel: () => node.close() }));
    node = dialog(`New keys for ${one.username}`, body);
  }

  function password(one) {
    const old = mine(one) ? field('Present password', input({ type: 'password', autocomplete: 'current-password' }), { required: true }) : null;
    const fresh = field('New password', input({ type: 'password', autocomplete: 'new-password', minlength: '8' }), { required: true, hint: 'At least 8 characters.' });
    let node = null;
    const body = form([old?.box, fresh.box], 'Change', async () => {
      await call('updateUser', { id: one.id, password: fresh.control.value, currentpassword: old?.control.value });
      node.close();
      say('The password was changed.');
    }, { cancel: () => node.close() });
    node = dialog(`Password of ${one.username}`, body);
  }

  function create() {
    const name = field('User', input({ autocapitalize: 'none' }), { required: true });
    const secret = field('Password', input({ type: 'password', autocomplete: 'new-password', minlength: '8' }), { required: true, hint: 'At least 8 characters.' });
    const account = field('Account', input(), { hint: 'The user\'s name, where it is empty. Users of an account share its quota.' });
    const role = field('Role', select([['User'], ['Admin']]));
    const texts = [['firstname', 'First name'], ['lastname', 'Last name'], ['email', 'Email']].map(([key, label]) => [key, field(label, input())]);
    let node = null;
    const body = form([name.box, secret.box, account.box, role.box, h('div', { class: 'row' }, texts.map(([, one]) => one.box))], 'Create', async () => {
      const more = Object.fromEntries(texts.map(([key, one]) => [key, one.control.value.trim() || undefined]));
      await call('createUser', { username: name.control.value.trim(), password: secret.control.value, account: account.control.value.trim() || undefined, role: role.control.value, ...more });
      node.close();
      await load();
    }, { cancel: () => node.close() });
    node = dialog('Create a user', body);
  }

  await load();
  if (signal.aborted) return;
  fill(box, heading('Users', admin ? button('Create a user', create, { kind: 'primary', symbol: 'plus' }) : null), card('Users', shown));
}
