// SPDX-License-Identifier: Apache-2.0
// The frame around the views: login, or the navigation, and switching between the two.

import { LostError } from './api.js';
import { fill, h, icon, mark, say } from './dom.js';
import * as live from './live.js';
import { go, route, show, start, stop } from './router.js';
import { forget, learn, login, logout, may, restore, session } from './session.js';
import { toggleTheme, useTheme } from './theme.js';
import { busy, button, field, form, heading, input, notice, waiting } from './ui.js';

import { certificates } from './certificates.js';
import { uploadCertificate } from './upload.js';
import { downloads } from './downloads.js';
import { events } from './events.js';
import { hosts } from './hosts.js';
import { register } from './register.js';
import { settings } from './settings.js';
import { templateDetails } from './template.js';
import { templates } from './templates.js';
import { users } from './users.js';
import { zones } from './zones.js';

const SECTIONS = [
  ['templates', 'Templates', 'template', 'listTemplates'],
  ['downloads', 'Downloads', 'download', 'listTemplateDownloads'],
  ['certificates', 'Certificates', 'certificate', 'listTemplateDirectDownloadCertificates'],
  ['hosts', 'Hosts', 'host', 'listHosts'],
  ['zones', 'Zones', 'zone', 'createZone'],
  ['settings', 'Settings', 'settings', 'listConfigurations'],
  ['events', 'Events', 'event', 'listEvents'],
  ['users', 'Users', 'user', 'listUsers'],
];

route('templates', templates, 'templates');
route('templates/:id', templateDetails, 'templates');
route('register', register, 'templates');
route('downloads', downloads, 'downloads');
route('certificates', certificates, 'certificates');
route('upload', uploadCertificate, 'certificates');
route('hosts', hosts, 'hosts');
route('zones', zones, 'zones');
route('settings', settings, 'settings');
route('events', events, 'events');
route('users', users, 'users');

const app = document.getElementById('app');

function refused() {
  if (session.user) end('Your session has ended. Log in again.');
}

function end(why) {
  live.close();
  stop();
  document.querySelectorAll('dialog').forEach((one) => one.close());
  forget(why);
  showLogin();
}

// --- login --------------------------------------------------------------------------------

function showLogin() {
  document.title = 'Log in · fastdl';
  const name = field('User', input({ autocomplete: 'username', autocapitalize: 'none', required: true }));
  const password = field('Password', input({ type: 'password', autocomplete: 'current-password', required: true }));
  const fields = form([name.box, password.box], 'Log in', async () => {
    try {
      await login(name.control.value, password.control.value, refused, live.suspect);
    } catch (error) {
      password.control.value = '';
      throw error;
    }
    await enter();
  });
  fill(app, h('main', { id: 'main', class: 'login', tabindex: '-1' },
    h('div', { class: 'brand' }, mark(), h('h1', {}, 'fastdl')),
    h('p', { class: 'note' }, 'Templates, straight onto your KVM hosts.'),
    session.ended ? h('div', { class: 'notice warn', role: 'status' }, icon('warning'), h('div', {}, session.ended)) : null,
    fields));
  name.control.focus();
}

// --- the frame ----------------------------------------------------------------------------

let outlet = null;
let connection = null;
let nav = null;
let menu = null;

function frame() {
  outlet = h('main', { id: 'main', tabindex: '-1' });
  connection = h('div', { class: 'connection', role: 'status' });
  menu = h('button', { type: 'button', class: 'plain menu', 'aria-expanded': 'false', 'aria-controls': 'nav', 'aria-label': 'Menu',
    onclick: () => openMenu(menu.getAttribute('aria-expanded') !== 'true') }, icon('menu'));
  nav = h('nav', { id: 'nav', 'aria-label': 'Sections' },
    h('ul', {}, SECTIONS.filter(([, , , command]) => may(command)).map(([path, text, symbol]) => (
      h('li', {}, h('a', { href: `#/${path}`, 'data-section': path }, icon(symbol), text))))));
  const out = button('Log out', () => busy(out, () => logout(), () => {}).then(() => end('')), { symbol: 'logout', kind: 'quiet' });
  fill(app,
    h('header', { class: 'top' },
      menu, h('a', { class: 'brand', href: '#/templates', 'aria-label': 'fastdl, templates' }, mark(), h('span', {}, 'fastdl')),
      h('div', { class: 'who' },
        h('span', { class: 'name' }, icon('user'), session.user.name),
        h('button', { type: 'button', class: 'plain', 'aria-label': 'Light or dark', onclick: toggleTheme }, icon('theme')), out)),
    h('div', { class: 'below' }, nav, h('div', { class: 'content' }, connection, outlet)));
}

function openMenu(open) {
  menu.setAttribute('aria-expanded', String(open));
  nav.classList.toggle('open', open);
}

addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && menu?.getAttribute('aria-expanded') === 'true') {
    openMenu(false);
    menu.focus();
  }
});

let first = true;
async function changed(found, context) {
  openMenu(false);
  for (const link of nav.querySelectorAll('a')) {
    if (link.dataset.section === found.section) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const { box, signal } = context;
  live.on('trouble', (text) => fill(connection, notice('bad', text)), signal);
  signal.addEventListener('abort', () => connection.querySelector('.bad')?.remove());
  fill(box, waiting());
  try {
    await found.view(context);
  } catch (error) {
    if (error.name === 'AbortError' || signal.aborted) return;
    if (error instanceof LostError) {
      fill(box, notice('warn', error.message));
      live.on('back', show, signal);
    } else {
      fill(box, heading('That did not work'), notice('bad', error.message));
    }
  }
  if (signal.aborted) return;
  const title = box.querySelector('h1');
  document.title = `${title?.textContent ?? 'fastdl'} · fastdl`;
  // After a link the focus moves to the new view's heading; the first view leaves it alone.
  if (!first && !box.contains(document.activeElement)) title?.focus({ preventScroll: true });
  first = false;
}

function connected(state) {
  if (state === 'ended') {
    end('Your session has ended: the manager was restarted, or you were logged out elsewhere.');
  } else if (state === 'lost') {
    fill(connection, notice('warn', 'The manager cannot be reached. What you see may be out of date; trying again…'));
  } else {
    const was = connection.childElementCount > 0;
    fill(connection);
    if (was) {
      say('The manager is back.');
      live.back();
    }
  }
}

async function enter() {
  await learn();
  first = true;
  frame();
  start(outlet, changed);
  live.open(connected);
  if (location.hash) show();
  else go('templates');
}

async function begin() {
  useTheme();
  restore(refused, live.suspect);
  if (!session.user) {
    showLogin();
    return;
  }
  fill(app, h('main', { id: 'main' }, waiting()));
  try {
    await enter();
  } catch (error) {
    if (!session.user) return;
    if (error instanceof LostError) {
      fill(app, h('main', { id: 'main', class: 'login' }, notice('warn', `${error.message} Trying again…`)));
      setTimeout(begin, 2000);
    } else {
      end(error.message);
    }
  }
}

begin();
