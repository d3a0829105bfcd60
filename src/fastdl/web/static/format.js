// SPDX-License-Identifier: Apache-2.0
// How are numbers and times written for people?

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const DAY = 86_400;

export function bytes(count) {
  if (count === null || count === undefined) return '–';
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function rate(perSecond) {
  return perSecond ? `${bytes(perSecond)}/s` : '–';
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 2 * DAY) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / DAY)} days`;
}

// The API's 2026-11-22T12:00:00+0000, as a Date.
export function time(text) {
  return text ? new Date(text.replace(/([+-]\d\d)(\d\d)$/, '$1:$2')) : null;
}

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const SHORT = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });

export function moment(text) {
  const when = typeof text === 'string' ? time(text) : text;
  return when && !Number.isNaN(when.getTime()) ? FULL.format(when) : '–';
}

export function day(text) {
  const when = typeof text === 'string' ? time(text) : text;
  return when && !Number.isNaN(when.getTime()) ? SHORT.format(when) : '–';
}

export function ago(text) {
  const when = time(text);
  if (!when) return '–';
  const seconds = (Date.now() - when) / 1000;
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 14 * DAY) return `${Math.floor(seconds / DAY)} d ago`;
  return SHORT.format(when);
}

// How long something is still valid: {text, tone}.
export function left(text) {
  const when = typeof text === 'string' ? time(text) : text;
  if (!when) return { text: '–', tone: '' };
  const days = Math.floor((when - Date.now()) / 1000 / DAY);
  if (when < Date.now()) return { text: 'expired', tone: 'bad' };
  if (days === 0) return { text: 'expires today', tone: 'bad' };
  const tone = days < 7 ? 'bad' : days < 30 ? 'warn' : 'good';
  return { text: `${days} ${days === 1 ? 'day' : 'days'} left`, tone };
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
