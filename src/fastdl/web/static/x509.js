// SPDX-License-Identifier: Apache-2.0
// What is in a certificate? A small reader of DER, for a preview before anything is sent.
// The manager and the hosts decide with a real library; what cannot be read here is reported.

export class NotACertificate extends Error {}

const NAMES = { '2.5.4.3': 'CN', '2.5.4.6': 'C', '2.5.4.7': 'L', '2.5.4.8': 'ST', '2.5.4.10': 'O', '2.5.4.11': 'OU',
  '1.2.840.113549.1.9.1': 'EMAILADDRESS', '0.9.2342.19200300.100.1.25': 'DC' };
const SIGNED_DATA = '1.2.840.113549.1.7.2';
const ALT_NAMES = '2.5.29.17';
const BASIC = '2.5.29.19';
const MAX = 64;

// One element at *at*: {tag, body, whole, end}.
function element(data, at = 0) {
  if (at + 2 > data.length) throw new NotACertificate('it ends too early');
  let length = data[at + 1];
  let start = at + 2;
  if (length & 0x80) {
    const count = length & 0x7f;
    if (count === 0 || count > 4 || start + count > data.length) throw new NotACertificate('a length is not DER');
    length = 0;
    for (let n = 0; n < count; n += 1) length = length * 256 + data[start + n];
    start += count;
  }
  if (start + length > data.length) throw new NotACertificate('it ends too early');
  return { tag: data[at], body: data.subarray(start, start + length), whole: data.subarray(at, start + length), end: start + length };
}

function children(data) {
  const found = [];
  for (let at = 0; at < data.length && found.length < 4096;) {
    const one = element(data, at);
    found.push(one);
    at = one.end;
  }
  return found;
}

function oid(body) {
  const numbers = [];
  let value = 0;
  for (const byte of body) {
    value = value * 128 + (byte & 0x7f);
    if (!(byte & 0x80)) {
      numbers.push(value);
      value = 0;
    }
  }
  const [first = 0, ...rest] = numbers;
  const top = Math.min(2, Math.floor(first / 40));
  return [top, first - 40 * top, ...rest].join('.');
}

function text({ tag, body }) {
  if (tag === 0x1e) return new TextDecoder('utf-16be').decode(body);
  return new TextDecoder(tag === 0x14 ? 'latin1' : 'utf-8').decode(body);
}

function name(body) {
  const parts = [];
  for (const set of children(body)) {
    for (const pair of children(set.body)) {
      const [kind, value] = children(pair.body);
      const id = oid(kind.body);
      parts.push(`${NAMES[id] ?? id}=${text(value)}`);
    }
  }
  return parts.reverse().join(', ') || '(empty)';
}

// UTCTime has two digits of the year, GeneralizedTime four.
function date({ tag, body }) {
  const raw = new TextDecoder().decode(body);
  const match = (tag === 0x17 ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/).exec(raw);
  if (!match) throw new NotACertificate('a date cannot be read');
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number);
  const century = tag === 0x17 ? (year < 50 ? 2000 : 1900) : 0;
  return new Date(Date.UTC(century + year, month - 1, day, hour, minute, second));
}

const hex = (bytes, between = '') => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(between);

function extensions(parts) {
  const found = { names: [], ca: false };
  const block = parts.find((one) => one.tag === 0xa3);
  if (!block) return found;
  for (const one of children(element(block.body).body)) {
    const inner = children(one.body);
    const id = oid(inner[0].body);
    const value = inner.at(-1).body;
    if (id === ALT_NAMES) {
      for (const alt of children(element(value).body)) {
        if (alt.tag === 0x82) found.names.push(text({ tag: 0x16, body: alt.body }));
        if (alt.tag === 0x87 && alt.body.length === 4) found.names.push([...alt.body].join('.'));
        if (alt.tag === 0x87 && alt.body.length === 16) found.names.push(hex(alt.body).match(/.{4}/g).join(':'));
      }
    } else if (id === BASIC) {
      const [flag] = children(element(value).body);
      found.ca = flag?.tag === 0x01 && flag.body[0] !== 0;
    }
  }
  return found;
}

async function describe(der) {
  const whole = element(der);
  const [tbs] = children(whole.body);
  const parts = children(tbs.body);
  const from = parts[0].tag === 0xa0 ? 1 : 0;
  const [serial, , issuer, validity, subject] = parts.slice(from);
  const [start, end] = children(validity.body);
  const digest = globalThis.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest('SHA-256', whole.whole)) : null;
  return {
    subject: name(subject.body), issuer: name(issuer.body), notBefore: date(start), notAfter: date(end),
    serial: hex(serial.body, ':'), fingerprint: digest ? hex(digest, ':').toUpperCase() : '', ...extensions(parts),
  };
}

// DER certificates in *der*: one, or those of a PKCS#7 bundle.
function unpack(der) {
  const outer = element(der);
  if (outer.tag !== 0x30) throw new NotACertificate('it is no DER');
  const inner = children(outer.body);
  if (inner[0]?.tag !== 0x06 || oid(inner[0].body) !== SIGNED_DATA) return [der.subarray(0, outer.end)];
  const signed = children(element(inner[1].body).body);
  const certificates = signed.find((one) => one.tag === 0xa0);
  return certificates ? children(certificates.body).map((one) => one.whole) : [];
}

function decode(base64) {
  const plain = base64.replace(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(plain)) throw new NotACertificate('it is neither PEM nor base64');
  return Uint8Array.from(atob(plain), (letter) => letter.charCodeAt(0));
}

// Return the content of each certificate in *given*. NotACertificate if nothing can be read.
export async function read(given) {
  const blocks = [...given.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----([\s\S]*?)-----END \1-----/g)];
  if (blocks.some(([, label]) => label.includes('PRIVATE KEY'))) {
    throw new NotACertificate('it holds a private key, which must not leave its server: take the certificate alone');
  }
  const parts = blocks.length ? blocks.filter(([, label]) => /CERTIFICATE|PKCS7/.test(label)).map(([, , body]) => body) : [given];
  try {
    const found = parts.flatMap((body) => unpack(decode(body))).slice(0, MAX);
    if (!found.length) throw new NotACertificate('there is no certificate in it');
    return await Promise.all(found.map(describe));
  } catch (error) {
    if (error instanceof NotACertificate) throw error;
    throw new NotACertificate('it cannot be read');
  }
}

// A file's content, as the text that the API accepts: PEM as it is, DER as base64.
export async function textOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const plain = new TextDecoder().decode(bytes);
  if (bytes[0] !== 0x30 || plain.includes('-----BEGIN')) return plain;
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replace(/.{64}/g, '$&\n');
}
