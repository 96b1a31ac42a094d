// A server in order: SIGTERM closes it, and it ends.
const server = require('http').createServer((request, response) => response.end('hello'));
server.listen(process.env.PORT, '127.0.0.1');
process.on('SIGTERM', () => server.close());
