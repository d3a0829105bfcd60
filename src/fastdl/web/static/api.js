// SPDX-License-Identifier: Apache-2.0
// Calls commands of the API like any other client: POST to client/api.

export class ApiError extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

// The manager could not be reached: nothing is known of what it did.
export class LostError extends Error {
  constructor() {
    super('The manager cannot be reached.');
  }
}

let sessionKey = '';
let whenRefused = () => {};
let whenLost = () => {};

export function useSession(key, refused, lost) {
  sessionKey = key;
  whenRefused = refused;
  whenLost = lost;
}

export function streamAddress() {
  return `events?sessionkey=${encodeURIComponent(sessionKey)}`;
}

// Return what is in the command's envelope; ApiError with the API's own message.
export async function call(command, params = {}, options = {}) {
  const body = new URLSearchParams({ response: 'json', command });
  if (sessionKey) body.set('sessionkey', sessionKey);
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null) body.set(name, String(value));
  }
  let response;
  let text;
  try {
    response = await fetch('client/api', {
      method: 'POST', body, credentials: 'same-origin', cache: 'no-store', signal: options.signal,
    });
    text = await response.text();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    whenLost();
    throw new LostError();
  }
  const answer = envelope(text, response.status);
  if (response.ok) return answer;
  const error = new ApiError(response.status, answer.errortext || `The manager answered ${response.status}.`);
  if (response.status === 401 && command !== 'login') whenRefused();
  throw error;
}

function envelope(text, status) {
  try {
    const [value] = Object.values(JSON.parse(text));
    return value ?? {};
  } catch {
    throw new ApiError(status, `What answered at this address is no manager (HTTP ${status}).`);
  }
}

const PAGES_MAX = 20;

// Return all rows of a list command, in pages as large as the manager allows.
export async function list(command, row, params = {}, options = {}) {
  const rows = [];
  let size = -1;
  for (let page = 1; page <= PAGES_MAX; page += 1) {
    const answer = await call(command, { ...params, page, pagesize: size }, options);
    const found = answer[row] ?? [];
    rows.push(...found);
    if (!found.length || rows.length >= (answer.count ?? 0)) break;
    if (size < 0) size = found.length;
  }
  return rows;
}

// Wait for an asynchronous command; return its result, ApiError if it failed.
export async function job(answer, { signal, every = 700 } = {}) {
  for (;;) {
    const state = await call('queryAsyncJobResult', { jobid: answer.jobid }, { signal });
    if (state.jobstatus === 1) return state.jobresult ?? {};
    if (state.jobstatus === 2) {
      throw new ApiError(state.jobresultcode, state.jobresult?.errortext ?? 'The job failed.');
    }
    await pause(every, signal);
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(new DOMException('left', 'AbortError'));
    }, { once: true });
  });
}
