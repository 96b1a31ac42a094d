// What an Express application is to a client, without a handler for signals.
require('http')
  .createServer((request, response) => setTimeout(() => response.end('report'), request.url === '/report' ? 1000 : 0))
  .listen(process.env.PORT, '127.0.0.1');
