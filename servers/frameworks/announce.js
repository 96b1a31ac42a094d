// The `listening` line of ../CONTRACT.md.

import { randomBytes } from 'node:crypto';

export const instance = randomBytes(8).toString('hex');

export function announce(port) {
  console.log(JSON.stringify({ event: 'listening', port, pid: process.pid, instance }));
}
