"""The application that gunicorn serves: the routes of ../CONTRACT.md on Flask. It knows nothing of shutdown: that
is the server's part."""

import time

from flask import Flask, Response, request

from announce import INSTANCE

app = Flask(__name__)


@app.after_request
def identify(response: Response) -> Response:
    response.headers["X-Instance-Id"] = INSTANCE
    return response


@app.get("/")
def root():
    return {"server": "flask"}


@app.get("/health")
@app.get("/health/live")
@app.get("/health/ready")
def health():
    return {"status": "ok"}


@app.get("/slow")
def slow():
    delay = request.args.get("delay", 1, type=float)
    time.sleep(delay)
    return {"slept": delay}


@app.post("/echo")
def echo():
    return Response(request.get_data(), content_type=request.content_type)


@app.get("/bytes")
def bytes_():
    return Response(bytes(request.args.get("size", 1024, type=int)), mimetype="application/octet-stream")


@app.get("/stream")
def stream():
    chunks = request.args.get("chunks", 10, type=int)
    interval = request.args.get("interval", 0.1, type=float)

    def body():
        for chunk in range(chunks):
            if chunk > 0:
                time.sleep(interval)
            yield f"chunk {chunk}\n"

    return Response(body(), mimetype="text/plain")


@app.get("/events")
def events():
    def body():
        number = 0
        while True:
            yield f"data: {number}\n\n"
            time.sleep(1)
            number += 1

    return Response(body(), mimetype="text/event-stream")
