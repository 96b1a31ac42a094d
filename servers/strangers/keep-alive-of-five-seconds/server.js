// Node.js with a handler for the signal that ends whatever is left after two seconds. KEEP_ALIVE is in milliseconds, and
// 5,000 by default.
const server = require('http').createServer((request, response) =>
  setTimeout(() => response.end('report'), request.url === '/report' ? 1000 : 0),
);
if (process.env.KEEP_ALIVE) server.keepAliveTimeout = Number(process.env.KEEP_ALIVE);
server.listen(process.env.PORT, '127.0.0.1');
process.once('SIGTERM', () => {
  server.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 2000);
});
