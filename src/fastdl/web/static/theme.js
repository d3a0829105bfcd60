// SPDX-License-Identifier: Apache-2.0
// Light or dark? The system's setting, until the user chooses.

const STORE = 'fastdl.theme';
const system = matchMedia('(prefers-color-scheme: dark)');

function current() {
  return localStorage.getItem(STORE) ?? (system.matches ? 'dark' : 'light');
}

export function useTheme() {
  document.documentElement.dataset.theme = current();
}

export function toggleTheme() {
  localStorage.setItem(STORE, current() === 'dark' ? 'light' : 'dark');
  useTheme();
}

system.addEventListener('change', useTheme);
