// HTTP/2 without TLS, by prior knowledge.
const http2 = require("node:http2");

const server = http2.createServer();
server.on("session", (session) => session.on("error", () => {}));
server.on("stream", (stream) => stream.respond({ ":status": 204 }, { endStream: true }));
server.listen(Number(process.argv[2]), "127.0.0.1");
