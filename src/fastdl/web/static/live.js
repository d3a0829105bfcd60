// SPDX-License-Identifier: Apache-2.0
// What happens on the manager now? One stream of events for all views; it reconnects by itself.

import { LostError, streamAddress } from './api.js';

const TOPICS = ['event', 'host', 'download', 'progress'];
const AGAIN_MS = 2000;
const listeners = new Map();
let source = null;
let timer = 0;
let wanted = false;
let tell = () => {};

// *changed*('live' | 'lost' | 'ended') is called when the state of the connection changes.
export function open(changed) {
  tell = changed;
  wanted = true;
  connect();
}

export function close() {
  wanted = false;
  clearTimeout(timer);
  source?.close();
  source = null;
}

// The manager did not respond to a request: find out whether it is up.
export function suspect() {
  if (wanted && timer === 0) lost();
}

function connect() {
  clearTimeout(timer);
  timer = 0;
  source?.close();
  const stream = new EventSource(streamAddress());
  source = stream;
  stream.addEventListener('open', () => { if (source === stream) tell('live'); });
  stream.addEventListener('error', () => { if (source === stream) lost(); });
  for (const topic of TOPICS) {
    stream.addEventListener(topic, (message) => publish(topic, JSON.parse(message.data)));
  }
}

// A stream may have ended with the session, by a restart, or by the network: check which.
async function lost() {
  if (!wanted) return;
  source?.close();
  source = null;
  timer = -1;
  const found = await state();
  if (!wanted) return;
  if (found === 'ended') {
    close();
    tell('ended');
    return;
  }
  if (found === 'live') {
    timer = setTimeout(connect, 300);
    return;
  }
  tell('lost');
  timer = setTimeout(lost, AGAIN_MS);
}

async function state() {
  const stop = new AbortController();
  const late = setTimeout(() => stop.abort(), 5000);
  try {
    const response = await fetch(streamAddress(), { cache: 'no-store', signal: stop.signal });
    if (response.status === 401) return 'ended';
    return response.ok || response.status === 429 ? 'live' : 'lost';
  } catch {
    return 'lost';
  } finally {
    clearTimeout(late);
    stop.abort();
  }
}

function publish(topic, data) {
  for (const listener of listeners.get(topic) ?? []) listener(data);
}

// Call *listener* with what is published on *topic*, until *signal*.
export function on(topic, listener, signal) {
  const known = listeners.get(topic) ?? new Set();
  listeners.set(topic, known.add(listener));
  signal.addEventListener('abort', () => known.delete(listener), { once: true });
}

// Call *load* now, after each notice of *topics*, and when the connection is back; one at a time.
export function keep(topics, load, signal, { every = 0, settle = 400 } = {}) {
  let running = false;
  let again = false;
  let waiting = 0;
  const run = async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await load();
    } finally {
      running = false;
      if (again && !signal.aborted) soon();
      again = false;
    }
  };
  // What is shown stays if it cannot be updated; the banner shows why.
  const later = () => run().catch((error) => {
    if (error.name !== 'AbortError' && !(error instanceof LostError)) publish('trouble', error.message);
  });
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(later, settle);
  };
  for (const topic of [...topics, 'back']) on(topic, soon, signal);
  const tick = every ? setInterval(() => { if (!document.hidden) later(); }, every) : 0;
  signal.addEventListener('abort', () => { clearTimeout(waiting); clearInterval(tick); }, { once: true });
  return { first: run(), now: run };
}

export function back() {
  publish('back', {});
}
