// Its event loop answers each request as it reads it.
const http = require("node:http");

http.createServer((_, response) => response.end("ok")).listen(Number(process.argv[2]), "127.0.0.1");
