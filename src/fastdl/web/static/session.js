// SPDX-License-Identifier: Apache-2.0
// Who is logged in, and which commands may they call? The page offers nothing else.

import { call, list, useSession } from './api.js';

const STORE = 'fastdl.session';

export const session = { user: null, commands: new Set(), ended: '' };

// The key alone is useless: the cookie, which no script can read, has to come with it.
export function restore(refused, lost) {
  let stored = null;
  try {
    stored = JSON.parse(localStorage.getItem(STORE) ?? 'null');
  } catch {
    localStorage.removeItem(STORE);
  }
  use(stored, refused, lost);
}

export function use(user, refused, lost) {
  session.user = user;
  useSession(user?.key ?? '', refused, lost);
}

export async function login(username, password, refused, lost) {
  useSession('', () => {}, () => {});
  const answer = await call('login', { username, password });
  const user = {
    key: answer.sessionkey, id: answer.userid, name: answer.username, account: answer.account,
    admin: String(answer.type) === '1',
  };
  localStorage.setItem(STORE, JSON.stringify(user));
  session.ended = '';
  use(user, refused, lost);
}

export async function learn() {
  const known = await list('listApis', 'api');
  session.commands = new Set(known.map((one) => one.name));
}

export function may(command) {
  return session.commands.has(command);
}

export async function logout() {
  try {
    await call('logout');
  } finally {
    forget('');
  }
}

export function forget(why) {
  localStorage.removeItem(STORE);
  session.ended = why;
  session.user = null;
  session.commands = new Set();
  useSession('', () => {}, () => {});
}
