// Node.js as it comes, with a handler for the signal: KEEP_ALIVE in milliseconds, 5,000 by default.
const server = require('http').createServer((request, response) =>
  setTimeout(() => response.end('report'), request.url === '/report' ? 1000 : 0),
);
if (process.env.KEEP_ALIVE) server.keepAliveTimeout = Number(process.env.KEEP_ALIVE);
server.listen(process.env.PORT, '127.0.0.1');
process.once('SIGTERM', () => server.close(() => process.exit(0)));
